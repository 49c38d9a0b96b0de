"""A CUDA device by name alone: it computes on the CPU, refuses what a GPU refuses, counts waits.

Its tensors are of a subclass that says `cuda:0`. For autograd they are on the CPU, since PyTorch
without CUDA cannot run a backward pass anywhere else; so C++ code that asks for their device takes
the CPU's way. Every operation on them passes through `Emulated.__torch_dispatch__`.

It knows nothing of numbers that differ on a GPU, of kernels, of streams, of how much memory there
is, or of torch.compile. Its random numbers are those of the CPU.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._pytree import tree_leaves, tree_map

PROJECT = Path(__file__).parents[1]
ROOMS = tuple(f"{PROJECT / room}/" for room in ("pipeline", "stages", "benchmarks"))
DEVICE = torch.device("cuda:0")
NAME = "an emulated GPU"
PLACE = "cpu"
"""Where its tensors really are; on `meta` they have sizes alone, and nothing to wait for."""
aten = torch.ops.aten

WAITS = {
    aten._local_scalar_dense: "item",
    aten.equal: "equal",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique: "unique",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.unique_dim_consecutive: "unique",
    aten.bincount: "bincount",
}
"""What the host must wait for: its result, or how large that is, is known to the device alone.

Whether indexing and copies are among these depends on what they are given.
"""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
TENSORS_ALONE = {
    aten.cat,
    aten.stack,
    aten.gather,
    aten.index_select,
    aten.scatter,
    aten.embedding,
    aten.searchsorted,
    aten.bucketize,
}
"""Operations that take no number from the CPU, which is what a tensor [] there is to others."""

NARROW = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addmv"),
    *("baddbmm", "addbmm", "scaled_dot_product_attention"),
}
WIDE = {
    *("exp", "expm1", "log", "log1p", "pow", "__pow__", "__rpow__", "reciprocal", "rsqrt"),
    *("softmax", "log_softmax", "logsumexp", "cross_entropy", "nll_loss", "layer_norm"),
    *("sum", "prod", "cumsum", "cumprod", "norm"),
}
WIDEST = {"addcmul", "addcdiv", "dot", "index_put", "scatter_add"}
"""What autocast casts on CUDA, where PyTorch's own table is not reached: the part in use."""

KERNELS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: lambda query, key, value: (
        aten._scaled_dot_product_flash_attention(query, key, value)[0]
    ),
    F.dropout: lambda x, p, training, inplace: aten.native_dropout(x, p, training)[0],
}
"""What a GPU takes for functions that choose by device."""

waits: Counter[str] = Counter()
"""How often the host waited for the device, by line of the project's code and by why."""

_to, _load = Tensor.to, torch.load
_group_tensors = torch._C._group_tensors_by_device_and_dtype
_run_backward = torch.autograd._engine_run_backward


@contextmanager
def emulated_cuda(place: str = "cpu") -> Iterator[None]:
    """Let `cuda` be a device meanwhile, with no waits for it at first; see PLACE."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    patched: list[tuple[Any, str, Any]] = [
        (sys.modules[__name__], "PLACE", place),
        *((torch.cuda, name, Mock(return_value=answer)) for name, answer in answers.items()),
        (torch.cuda, "synchronize", lambda *_: _count("synchronize")),
        (torch.cuda, "device", lambda *_: nullcontext()),
        (torch.cuda, "CUDAGraph", Graph),
        (torch.cuda, "graph", Graph.recording),
        (torch, "Generator", Generator),
        (torch, "load", _load_to),
        (Tensor, "to", _moved),
        (Tensor, "cpu", lambda self, **how: self.to("cpu", **how)),
        (Tensor, "cuda", lambda self, device="cuda", **how: self.to(device, **how)),
        (Tensor, "pin_memory", _pinned),
        (Tensor, "is_pinned", _is_pinned),
        (torch.autograd, "_engine_run_backward", _backward),
        (torch._C, "_group_tensors_by_device_and_dtype", _grouped),
        (
            _foreach_utils,
            "_foreach_supported_types",
            [*_foreach_utils._foreach_supported_types, Emulated],
        ),
    ]
    waits.clear()
    with ExitStack() as stack:
        for owner, name, value in patched:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(_Factories())
        yield


class Emulated(Tensor):
    """A tensor that says it is on `cuda:0`; `elem` is the same memory, as the CPU has it."""

    elem: Tensor
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def of(cls, elem: Tensor) -> "Emulated":
        """`elem`, which must have no gradient and no other owner, as a tensor of the device."""
        made = Tensor._make_subclass(cls, elem, device_for_backend_keys=DEVICE)
        made.elem = elem
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.one_hot:
            # On a CPU alone it asks for the least id and the largest.
            return cls.of(func(args[0].elem, *args[1:], **kwargs))
        if PLACE == "meta" and func in KERNELS:
            # The meta device has others, which keep more.
            args, kwargs = _autocast(func.__name__, args, kwargs)
            func = KERNELS[func]
        if torch.is_autocast_enabled("cuda") and "out" not in kwargs:
            args, kwargs = _autocast(func.__name__, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            # Autograd takes these apart; in inference mode there is none.
            return func.decompose(*args, **kwargs)
        _refuse_mixed(func, args, kwargs)
        if why := _why_wait(func, args, kwargs):
            _count(why)
        owners: dict[int, Emulated] = {}

        def inward(value: Any) -> Any:
            if not isinstance(value, Emulated):
                return value
            owners[id(value.elem)] = value
            return value.elem

        def outward(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            # What an operation writes to it returns.
            owner = owners.get(id(value))
            if owner is None:
                return value if writes_to_host else cls.of(value)
            if owner.shape != value.shape:
                raise NotImplementedError(f"{func} changes a shape in place")
            return owner

        writes_to_host = func.overloadpacket is aten.copy_ and not isinstance(args[0], Emulated)
        args, kwargs = tree_map(inward, (args, kwargs))
        found = _compute(func, args, kwargs)
        if Graph.recorded is not None:
            Graph.recorded.operations.append((func, args, kwargs, found))
        return tree_map(outward, found)

    @property
    def data(self) -> Tensor:
        """Set it, and memory changes hands, as that of any tensor."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Emulated):
            raise NotImplementedError("a parameter of the emulated device stays there")
        Tensor.data.__set__(self, value)
        self.elem = value.elem

    # In inference mode PyTorch reads a number from where the CPU has it, past the dispatcher.
    def item(self) -> Any:
        _count("item")
        return self.elem.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if self.dim() else format(self.item(), spec)

    def tolist(self) -> Any:
        _count("tolist")
        return self.elem.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy, use .cpu() first")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def get_device(self) -> int:
        return 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        _count("save")
        return self.elem.__reduce_ex__(protocol)

    # By these two nn.Module.to knows that a parameter must become one of this class.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["elem"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> "Emulated":
        return Emulated.of(inner["elem"])


class Graph:
    """Operations that were recorded: a replay does them again, in the memory that they had."""

    recorded: "Graph | None" = None

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    @contextmanager
    def recording(self, **_: Any) -> Iterator[None]:
        """Record what is done meanwhile; it is done too, which on a GPU it is not."""
        Graph.recorded = self
        try:
            yield
        finally:
            Graph.recorded = None

    def replay(self) -> None:
        for func, args, kwargs, found in self.operations:
            again = tree_leaves(_compute(func, args, kwargs))
            for kept, new in zip(tree_leaves(found), again, strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class Generator(torch.Generator):
    """A generator that may say it is on `cuda:0`; its numbers are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.place = DEVICE if _is_ours(device) else torch.device("cpu")
        return made

    device = property(lambda self: self.place)


class _Factories(TorchFunctionMode):
    """Makes new tensors on the device, and refuses generators of another."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False):
            return func(*args, **kwargs).pin_memory()
        device, generator = kwargs.get("device"), kwargs.get("generator")
        if device is None and generator is None:
            return func(*args, **kwargs)
        on_gpu = any(isinstance(leaf, Emulated) for leaf in tree_leaves((args, kwargs)))
        if device is not None:
            on_gpu = _is_ours(device)
        if generator is not None and on_gpu != _is_ours(generator.device):
            raise RuntimeError(
                f"Expected a '{'cuda' if on_gpu else 'cpu'}' device type for generator but found "
                f"'{generator.device.type}'"
            )
        if device is None:
            return func(*args, **kwargs)
        if func is torch.as_tensor and isinstance(args[0], Tensor):
            return args[0].to(**kwargs)
        if on_gpu and func in (torch.tensor, torch.as_tensor):
            _count("copy to the device")
        args = tree_map(lambda leaf: leaf.elem if isinstance(leaf, Emulated) else leaf, args)
        made = func(*args, **kwargs | {"device": PLACE if on_gpu else device})
        return Emulated.of(made.detach()).requires_grad_(made.requires_grad) if on_gpu else made


class _Move(torch.autograd.Function):
    """A copy on the other device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if isinstance(x, Emulated):
            return x.elem.clone()
        return Emulated.of(x.detach().to(PLACE, copy=True))

    @staticmethod
    def backward(ctx: Any, by_copy: Tensor) -> Tensor:
        return _Move.apply(by_copy)


def _moved(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`."""
    if args and isinstance(args[0], Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    copy = kwargs.pop("copy", False)
    # Else the first would find itself, and the second _Factories.
    with torch._C.DisableTorchFunction():
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and _is_ours(device) != isinstance(self, Emulated):
        if isinstance(self, Emulated):
            _count("copy to the host")
        elif not (non_blocking and self.is_pinned()):
            _count("copy to the device")
        self = _Move.apply(self)
        device = None if device.type == "cuda" else device
    elif isinstance(self, Emulated):
        device = None
    how = {} if memory_format is None else {"memory_format": memory_format}
    with torch._C.DisableTorchFunction():
        return _to(self, device, self.dtype if dtype is None else dtype, non_blocking, copy, **how)


def _pinned(self: Tensor) -> Tensor:
    """`Tensor.pin_memory`."""
    if isinstance(self, Emulated):
        raise RuntimeError("cannot pin 'torch.cuda.Tensor' only dense CPU tensors can be pinned")
    copy = self.clone()
    copy.is_in_pinned_memory = True
    return copy


def _is_pinned(self: Tensor) -> bool:
    """`Tensor.is_pinned`; a part of what is pinned is so too."""
    whole = self if self._base is None else self._base
    return hasattr(whole, "is_in_pinned_memory")


def _load_to(file: Any, map_location: Any = None, **how: Any) -> Any:
    """`torch.load`."""
    if map_location is None or not _is_ours(map_location):
        return _load(file, map_location=map_location, **how)
    loaded = _load(file, map_location="cpu", **how)
    return tree_map(lambda leaf: Emulated.of(leaf) if isinstance(leaf, Tensor) else leaf, loaded)


def _backward(*args: Any, **kwargs: Any) -> Any:
    """A backward pass may run Python: functions of the project's own, checkpoints."""
    # What called it has turned both off.
    with torch._C._EnableTorchFunction(), _Factories():
        return _run_backward(*args, **kwargs)


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """By device and type, as optimisers ask; C++ gives the CPU for the device."""
    groups = _group_tensors(tensors, with_indices)
    return {(group[0][0][0].device, dtype): group for (_, dtype), group in groups.items()}


def _is_ours(device: Any) -> bool:
    """Whether a device, as its name or else, is the emulated one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index:
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type == "cuda"


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives on the CPU."""
    with torch._C.DisableTorchFunction():
        if func is aten.mm.dtype:
            # PyTorch has it for CUDA alone.
            a, b, dtype = args
            return a.to(dtype) @ b.to(dtype)
        return func(*args, **kwargs)


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is no more than a sequence of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def _refuse_mixed(func: Any, args: Any, kwargs: Any) -> None:
    """Raise as CUDA does where an operation gets tensors of both devices.

    It may read tensors [] from the CPU, which are numbers to it, and indices, which it copies.
    """
    # Zeros that autograd puts in the place of gradients of pieces have the device that it knows.
    is_of_autograd = func.overloadpacket is aten.cat and torch._C._current_graph_task_id() != -1
    if func.overloadpacket is aten.copy_ or is_of_autograd:
        return
    read = (args[0], args[2:]) if func.overloadpacket in INDEXING else args
    hosts = [leaf for leaf in tree_leaves((read, kwargs)) if _on_host(leaf)]
    if not hosts:
        return
    named = {argument.name: argument for argument in func._schema.arguments}
    given = dict(zip(named, args, strict=False)) | kwargs
    written = [
        given[name] for name, argument in named.items() if name in given and argument.is_write
    ]
    tensors_alone = func.overloadpacket in TENSORS_ALONE
    if tensors_alone or any(host.dim() for host in hosts) or any(map(_on_host, written)):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func})"
        )


def _on_host(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Emulated)


def _why_wait(func: Any, args: Any, kwargs: Any) -> str | None:
    """Why the host must wait for this operation, or None."""
    packet = func.overloadpacket
    if packet is aten.copy_:
        target, source, *rest = args
        non_blocking = kwargs.get("non_blocking", rest and rest[0])
        if _on_host(target):
            return "copy to the host"
        pageable = _on_host(source) and source.dim() and not (non_blocking and source.is_pinned())
        return "copy to the device" if pageable else None
    if packet in INDEXING:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        # A number in the place of what a mask marks is `masked_fill`.
        fills = packet is not aten.index and _on_host(args[2]) and len(masks) == len(indices) == 1
        if masks and not fills:
            return "index by a mask"
        return "copy to the device" if any(map(_on_host, indices)) else None
    return WAITS.get(packet)


def _count(why: str) -> None:
    """Count a wait for the innermost line of the project's code."""
    if Graph.recorded is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({why})")
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(ROOMS):
        frame = frame.f_back
    where = "elsewhere"
    if frame is not None:
        where = f"{Path(frame.f_code.co_filename).relative_to(PROJECT)}:{frame.f_lineno}"
    waits[f"{where} {why}"] += 1


def _autocast(name: str, args: Any, kwargs: Any) -> Any:
    """Arguments of a function as autocast casts them."""
    if name not in NARROW | WIDE | WIDEST:
        return args, kwargs
    narrow = torch.get_autocast_dtype("cuda")
    dtype = torch.float32
    if name in NARROW:
        dtype = narrow
    elif name in WIDEST:
        given = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Emulated)}
        dtype = torch.float32 if torch.float32 in given else narrow

    def cast(value: Any) -> Any:
        casts = isinstance(value, Emulated) and value.dtype in (torch.float32, narrow)
        return value.to(dtype) if casts else value

    return tree_map(cast, (args, kwargs))
