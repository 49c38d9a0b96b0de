"""Units: the same results whoever computes which, and when; and what is kept of them."""

import pytest
import torch
from toy import small_embedding, small_model

from pipeline.errors import BusyError
from pipeline.files import store
from pipeline.methods.batches import sample_all
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.registry import method_of
from pipeline.methods.samplers import UNCONDITIONAL
from pipeline.scale.unfinished import unfinished_units
from pipeline.scale.units import UNKEPT, Units


class Gone(Exception):
    """A process ended."""


def gone(_):
    raise Gone


def embedding_model():
    """One of embedding diffusion with random weights."""
    config = small_embedding(vocab_size=7, length=5)
    torch.manual_seed(0)
    model = EmbeddingDiffusion(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def in_turns(folder, turns, work):
    """What `work` gives once processes with the units of `turns` have come and gone."""
    for indices in turns:
        with pytest.raises(Gone):
            work(Units(folder, mine=indices.__contains__, wait=gone))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == sum(map(len, turns))
    found = work(Units(folder))
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()
    return found


@pytest.mark.parametrize(
    "model",
    [small_model(parameterization="conditional"), embedding_model()],
    ids=["sedd", "embedding"],
)
def test_samples_are_the_same_whoever_draws_which_batch_and_when(model, tmp_path):
    how = {"num_steps": 3, "seed": 5, "batch_size": 2, "num_traced": 1}
    asked = [UNCONDITIONAL] * 2

    def drawn(units):
        predictor = method_of(model).resolve(model, "auto", 1.0, 1.0)
        return sample_all(model, 9, conditionings=asked, units=units, predictor=predictor, **how)

    alone, parted = drawn(UNKEPT), in_turns(tmp_path, [{4, 1}, {0}], drawn)
    assert torch.equal(alone.samples.tokens, parted.samples.tokens)
    assert torch.equal(alone.samples.nfe, parted.samples.nfe)
    assert alone.samples.calls == parted.samples.calls
    assert torch.equal(alone.states, parted.states)
    assert alone.times == parted.times
    assert alone.states.shape[1] == 1
    # Each batch has noise of its own.
    assert len(alone.samples.tokens.unique(dim=0)) == 9


@pytest.mark.parametrize(
    "model",
    [small_model(parameterization="conditional"), small_model(), embedding_model()],
    ids=["conditional", "raw", "embedding"],
)
def test_the_bound_is_the_same_whoever_draws_which_batch_and_when(model, tmp_path):
    vocab, length = model.config.vocab_size, model.length
    x0 = torch.randint(vocab, (7, length), generator=torch.Generator().manual_seed(1))

    def drawn(units):
        return method_of(model).draw_bound(
            model,
            x0.numpy().astype("uint16"),
            num_replicates=3,
            num_draws=2,
            batch_size=3,
            seed=0,
            units=units,
        )

    alone, parted = drawn(UNKEPT), in_turns(tmp_path, [{8, 2, 5}, {0, 3}], drawn)
    assert torch.equal(alone.integral, parted.integral)
    assert torch.equal(alone.reconstruction, parted.reconstruction)
    assert torch.equal(alone.prior, parted.prior)
    assert alone.total.shape == (3, 7)
    # Two draws of one short text may mask the same of it.
    assert len(alone.integral.unique(dim=0)) == 3


def count(units, num=4):
    """What units are computed, and what comes of all."""
    computed = []

    def compute(index):
        computed.append(index)
        return {"square": torch.tensor([index**2]), "none": torch.empty(0)}

    found = units.in_order(num, compute)
    assert [each["square"].item() for each in found] == [index**2 for index in range(num)]
    return computed


def test_a_result_is_computed_once_and_a_list_is_one_by_its_name(tmp_path):
    units = Units(tmp_path)
    assert count(units.named("a"), num=2) == [0, 1]
    assert count(units.named("a")) == [2, 3]
    assert units.named("a").num_kept(9) == 4
    assert count(units.named("a").named("b")) == count(units.named("b")) == [0, 1, 2, 3]
    assert count(Units()) == count(Units()) == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [b"", b"x" * 31, None], ids=["empty", "short", "flipped"])
def test_what_is_damaged_is_computed_again_and_said(tmp_path, capsys, wrong):
    units = Units(tmp_path).named("a")
    count(units)
    path = tmp_path / "a-2"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if wrong is None else wrong)
    assert count(units) == [2]
    assert capsys.readouterr().err == f"{path} is damaged: it is computed again\n"
    assert path.read_bytes() == whole
    assert count(units) == []


def test_the_bar_starts_where_the_units_stand(tmp_path, capsys):
    with pytest.raises(Gone):
        count(Units(tmp_path, "a", mine={1, 2, 3}.__contains__, wait=gone))
    count(Units(tmp_path, "a", desc="units"))
    lines = capsys.readouterr().err.splitlines()
    assert "3/4" in lines[0]
    assert "4/4" in lines[-1]


def test_two_of_one_fingerprint_are_kept_apart_and_what_is_unfinished_stays(empty_project):
    with unfinished_units("sample", {"seed": 0}) as (units, _):
        count(units.named("a"), num=2)
        (units.folder / ".a-3.1.partial").write_text("half")
        said = "another process is computing this already .sample-"
        with pytest.raises(BusyError, match=said), unfinished_units("sample", {"seed": 0}):
            pass
        with unfinished_units("sample", {"seed": 1}) as (others, _):
            assert others.named("a").num_kept(2) == 0
    with unfinished_units("sample", {"seed": 0}) as (units, work):
        assert sorted(path.name for path in units.folder.iterdir()) == ["a-0", "a-1"]
        assert count(units.named("a")) == [2, 3]
        work.finish()
    assert list((store() / "units").iterdir()) == []


def test_what_a_dvc_that_died_will_not_record_stays(empty_project):
    with unfinished_units("sample", {}, started_by=[]) as (units, work):
        count(units.named("a"))
        work.finish()
    with unfinished_units("sample", {}) as (units, _):
        assert count(units.named("a")) == []
