"""What everyone else is told of the method: configurations, warm starts, what it cannot do."""

import pytest
import torch
from embedding_toy import embedding_config, random_model
from tiny_project import write_params

from pipeline.checkpoints.checkpoint import save_checkpoint, warm_start
from pipeline.config.params import load_params
from pipeline.errors import CheckpointError
from pipeline.methods.embedding import method


@pytest.mark.parametrize(("recipe", "cond_dim"), [("bound", None), ("simple", 128)])
def test_a_configuration_is_of_the_recipe_in_use(tmp_path, recipe, cond_dim):
    """What tells the level by itself has no width of embedded levels."""
    write_params(tmp_path, {"embedding.recipe": recipe})
    params = load_params(tmp_path / "params.yaml")
    config = method.config_of(params, 55, 16)
    wanted = params.model.model_dump() | getattr(params.embedding, recipe).model_dump()
    wanted |= {"vocab_size": 55, "length": 16, "cond_dim": cond_dim, "method": "embedding"}
    assert config.asdict() == wanted
    with pytest.raises(ValueError, match="take no labels"):
        method.config_of(params, 55, 16, {"Sex": ["F", "M"]})


def test_a_warm_start_needs_the_same_network_and_leaves_the_rest_as_asked_for(tmp_path):
    given, tokenizer = tmp_path / "given", tmp_path / "tokenizer"
    tokenizer.mkdir()
    source = random_model(clock="nats")
    source.clock.rms.copy_(torch.linspace(0.1, 3, 100))
    save_checkpoint(given, source, tokenizer=tokenizer, tokenizer_sha256="0" * 64)
    asked = embedding_config(clock="decoding", loss="likelihood", g_max=7.0, known=0.0)
    model = warm_start(asked, given, torch.device("cpu"))
    assert model.config == asked
    for name, value in source.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name
    for changes, message in (
        ({"dim": 8}, "dim of the recipe is 8 here and 4 there"),
        ({"input": "vector"}, "input of the recipe is vector here and evidence there"),
    ):
        with pytest.raises(CheckpointError, match=message):
            warm_start(embedding_config(**changes), given, torch.device("cpu"))


def test_a_guess_is_not_twice_the_same():
    with pytest.raises(ValueError, match="guesses from noise"):
        method.likeliest(random_model(), torch.full((1, 5), -1))
