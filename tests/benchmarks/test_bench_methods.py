"""The pictures of both methods are drawn from what stages leave."""

import json

from benchmarks import methods


def artifacts(folder, glyphs):
    for name in ("samples", "scores"):
        (folder / name).mkdir(parents=True)
    states = [{"t": 1 - k / 4, "text": text} for k, text in enumerate(glyphs)]
    (folder / "samples" / "128.trace.json").write_text(json.dumps({"samples": [states]}))
    for num_steps in (1, 16, 128):
        row = {"num_steps": num_steps, "gen_ppl": 40 / num_steps, "entropy": 3.1, "nfe": num_steps}
        (folder / "scores" / f"{num_steps}.json").write_text(json.dumps(row))
    (folder / "scores" / "real_text.json").write_text(json.dumps({"gen_ppl": 8, "entropy": 3.1}))
    return folder


def test_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "DOCS", tmp_path)
    folders = [
        artifacts(tmp_path / "a", ["░░░", "░n░", "░n░", "Ann"]),
        artifacts(tmp_path / "b", ["░░░", "B░b", "Bob"]),
    ]
    assert [text for _, text in methods.states_of(folders[0])] == ["░░░", "░n░", "Ann"]
    assert [row["num_steps"] for row in methods.scores_of(folders[0])] == [1, 16, 128]
    methods.main(folders)
    for name in ("denoising.png", "frontier.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
