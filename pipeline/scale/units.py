"""Fixed units of work: a result is a function of its unit, never of who computes it, or when.

Results are kept one by one as they come, so that what was killed goes on with the units that are
left, and gathered in order.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pipeline.progress import progress

Result = Mapping[str, Tensor]
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Units:
    """How a list of units is gone through.

    Attributes:
        folder: where results are kept; None keeps none.
        name: what the list is called there.
        desc: what its bar is called; None shows none.
        mine: which units this process computes, by their index: all, unless there are others.
        wait: called once it has, with what says whether all have theirs; returns when they have.
    """

    folder: Path | None = None
    name: str = ""
    desc: str | None = None
    mine: Callable[[int], bool] = lambda index: True
    wait: Callable[[Callable[[], bool]], object] = lambda _: None

    def named(self, name: str, desc: str | None = None) -> "Units":
        """A list of its own beside others, under the same bar's name unless it has its own."""
        whole = f"{self.name}-{name}" if self.name else name
        return replace(self, name=whole, desc=desc or self.desc)

    def num_kept(self, num: int) -> int:
        """Of how many of `num` units the results are kept."""
        return 0 if self.folder is None else sum(self._path(k).exists() for k in range(num))

    def in_order(self, num: int, compute: Callable[[int], Result]) -> list[Result]:
        """The results of units 0 to `num` - 1, tensors on the CPU, in order.

        What is kept is not computed again, unless its file is damaged, nor are others' units.
        """
        bar = progress(
            total=num,
            desc=self.desc or "",
            unit="batch",
            done=self.num_kept(num),
            hidden=self.desc is None,
        )

        def take(index: int) -> Result:
            found = self._kept(index)
            if found is None:
                found = {key: value.cpu().contiguous() for key, value in compute(index).items()}
                self._keep(index, found)
                bar.update()
            return found

        with bar:
            mine = {index: take(index) for index in range(num) if self.mine(index)}
            others = [index for index in range(num) if index not in mine]

            def are_kept() -> bool:
                while others and self._path(others[-1]).exists():
                    others.pop()
                return not others

            self.wait(are_kept)
            return [mine[index] if index in mine else take(index) for index in range(num)]

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}-{index}"

    def _kept(self, index: int) -> Result | None:
        if self.folder is None:
            return None
        from safetensors.torch import load  # A GPU's bare machine has none.

        try:
            content = self._path(index).read_bytes()
        except FileNotFoundError:
            return None
        digest, content = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            print(f"{self._path(index)} is damaged: it is computed again", file=sys.stderr)
            return None
        return load(content)

    def _keep(self, index: int, result: Result) -> None:
        if self.folder is None:
            return
        from safetensors.torch import save

        content = save(dict(result))
        path = self._path(index)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            # Not synced, which takes longer than many a unit: the hash tells what a power cut
            # leaves half written.
            partial.write_bytes(hashlib.sha256(content).digest() + content)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            error.filename = error.filename or str(path)
            raise


UNKEPT = Units()
"""All here, one after another, nothing kept or shown."""
