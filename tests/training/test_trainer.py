"""The loop: it learns, resumes to the bit, stops on NaN and on Ctrl-C, and exports what stock transformers loads."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import recipes
import torch
from recipes import RECIPE, Trained, tiny_recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations.engine.encoder import bidirectional_view
from grit_integrations.errors import ConfigError, DataError, TrainingDivergedError
from grit_integrations.training import checkpoints, train
from grit_integrations.training.checkpoints import newest_checkpoint
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.objective import Loss
from grit_integrations.training.rows.stream import Position
from grit_integrations.training.trainer import Run


def records(output: str) -> list[dict[str, float]]:
    lines = (Path(output) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "evaluation" not in record]


def parameters(output: str) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(Path(output))
    assert newest is not None
    return load_file(newest / "model.safetensors")


def test_both_losses_fall_from_random_weights(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0, steps=40)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, start="random"))
    train(config, progress=False)
    steps = records(config.output)
    for stream in ("embedding", "generative"):
        first, last = (sum(step[stream] for step in part) / 10 for part in (steps[:10], steps[-10:]))
        assert last < first - 0.2, stream


def test_the_embedding_table_is_trained_first_and_alone(trained: Trained) -> None:
    steps = records(trained.config.output)
    assert [step["step"] for step in steps] == list(range(1, 61))
    assert ["generative" in step for step in steps] == [False] * 10 + [True] * 50
    run = Run(dataclasses.replace(trained.config, output=str(Path(trained.config.output) / "other")))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.step()
    changed = [name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])]
    assert "model.embed_tokens.weight" in changed
    assert not any("layers" in name or "lm_head" in name for name in changed)


def test_the_result_is_better_than_the_start(trained: Trained) -> None:
    lines = (Path(trained.config.output) / "metrics.jsonl").read_text().splitlines()
    evaluations = [json.loads(line)["evaluation"] for line in lines if "evaluation" in line]
    assert [each["step"] for each in evaluations] == [0, 20, 40, 60]
    best = trained.result.best
    least = max(each["ndcg_10"] for each in evaluations) - trained.config.retrieval_tolerance
    assert best["nats"] == min(each["nats"] for each in evaluations if each["ndcg_10"] >= least)
    assert best["ndcg_10"] > evaluations[0]["ndcg_10"]
    assert best["nats"] < evaluations[0]["nats"]


def test_weights_that_retrieve_worse_are_not_kept_and_equal_ones_are_if_they_answer_better(tmp_path: Path) -> None:
    run = Run(tiny_recipe(tmp_path))
    kept = []
    for ndcg, nats in [(0.70, 9.0), (0.80, 9.1), (0.797, 7.0), (0.78, 5.0), (0.799, 7.5), (0.81, 6.9), (0.806, 6.8)]:
        run.measure = lambda found={"step": 0, "sets": {}, "ndcg_10": ndcg, "nats": nats}: found  # type: ignore[misc]
        run._evaluated()
        kept.append(run.progress.best["ndcg_10"])
    assert kept == [0.70, 0.80, 0.797, 0.797, 0.797, 0.81, 0.806]


@pytest.mark.parametrize("stop_at", [5, 13])  # in the bag phase, and after it
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop_at: int) -> None:
    straight = tiny_recipe(tmp_path / "straight", steps=20, checkpoint_every=100)
    train(straight, progress=False)
    parts = tiny_recipe(tmp_path / "parts", steps=20, checkpoint_every=stop_at)
    original = Run.step

    def step_then_interrupt(run: Run) -> dict[str, float]:
        record = original(run)
        if run.progress.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_then_interrupt)
        stopped = train(parts, progress=False)
    assert (stopped.steps, stopped.finished) == (stop_at, False)
    torch.manual_seed(99)  # resuming must not depend on the state this process is in
    resumed = train(parts, progress=False)
    assert (resumed.steps, resumed.finished) == (20, True)
    one, two = parameters(straight.output), parameters(parts.output)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [
        [(step.get("bag"), step.get("embedding"), step.get("generative")) for step in records(c.output)]
        for c in (straight, parts)
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_trained_again(trained: Trained) -> None:
    before = parameters(trained.config.output)
    again = train(trained.config, progress=False)
    assert again.steps == 60
    assert all(torch.equal(before[name], value) for name, value in parameters(trained.config.output).items())


def test_resuming_with_another_recipe_is_refused(trained: Trained) -> None:
    changed = dataclasses.replace(trained.config, seed=7)
    with pytest.raises(ConfigError, match="another seed"):
        train(changed, progress=False)


def test_resuming_with_other_rows_is_refused_by_the_names_of_the_files(tmp_path: Path) -> None:
    data = shutil.copytree(RECIPE.parent / "tiny", tmp_path / "rows")
    config = tiny_recipe(tmp_path / "run", steps=2, bag_steps=0)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data=str(data)))
    train(config, progress=False)
    more = dataclasses.replace(config, steps=3)
    changed, gone = data / "embedding" / "names.jsonl", data / "generative" / "text.jsonl"
    changed.write_bytes(changed.read_bytes().replace(b"Glenmoor", b"Glenmoar", 1))
    gone.rename(gone.with_name("other.jsonl"))
    with pytest.raises(DataError) as caught:
        train(more, progress=False)
    for name in ("embedding/names.jsonl", "generative/text.jsonl", "generative/other.jsonl"):
        assert name in str(caught.value)
    assert "questions.jsonl" not in str(caught.value)
    assert train(more, resume=False, progress=False).steps == 3


@pytest.mark.parametrize("writer", ["save_file", "torch.save"])
def test_a_full_disk_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    config = tiny_recipe(tmp_path, steps=6, bag_steps=0, checkpoint_every=2, evaluate_every=100)
    original = Run._save

    def full(*arguments: object, **options: object) -> None:
        target = next(each for each in arguments if isinstance(each, Path))
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    def save(run: Run) -> None:
        with monkeypatch.context() as patch:
            if run.progress.step == 4:
                patch.setattr(torch if writer == "torch.save" else checkpoints, writer.removeprefix("torch."), full)
            original(run)

    monkeypatch.setattr(Run, "_save", save)
    with pytest.raises(OSError, match=r"step 4 could not be written.*No space left.*goes on from step-00000002"):
        train(config, progress=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.setattr(Run, "_save", original)
    assert train(config, progress=False).finished
    straight = dataclasses.replace(config, output=str(tmp_path / "straight"))
    train(straight, progress=False)
    one, two = parameters(config.output), parameters(straight.output)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [step["step"] for step in records(config.output)] == list(range(1, 7))  # none twice


KILLED = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(recipes.__file__).parent)!r})
from recipes import tiny_recipe
from grit_integrations.training import train
train(tiny_recipe(Path(sys.argv[1]), steps=40, checkpoint_every=3, evaluate_every=10), progress=False)
"""


def test_a_killed_run_ends_with_the_same_losses(tmp_path: Path) -> None:
    options = {"steps": 40, "checkpoint_every": 3, "evaluate_every": 10}
    straight = train(tiny_recipe(tmp_path / "straight", **options), progress=False)
    killed, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed)], cwd=RECIPE.parents[2])
    wanted = random.randint(4, 30)
    while not (metrics.exists() and metrics.read_text().count("seconds") >= wanted):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = train(tiny_recipe(killed, **options), progress=False)
    names = ("step", "bag", "embedding", "generative", "gradient")
    losses = [
        [[step.get(name) for name in names] for step in records(str(out))] for out in (tmp_path / "straight", killed)
    ]
    assert losses[0] == losses[1]
    assert resumed.best == straight.best
    one, two = (parameters(str(out)) for out in (tmp_path / "straight", killed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_old_checkpoints_go_and_no_temporary_ones_stay(trained: Trained) -> None:
    names = sorted(path.name for path in (Path(trained.config.output) / "checkpoints").iterdir())
    assert names == ["step-00000040", "step-00000060"]


def test_nan_stops_the_run_and_names_step_and_stream(tmp_path: Path) -> None:
    run = Run(tiny_recipe(tmp_path, bag_steps=0))
    run.step()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with torch.no_grad():
        run.model.lm_head.weight[3] = float("nan")
    with pytest.raises(TrainingDivergedError, match=r"Step 2: the generative stream is nan"):
        run.step()
    with torch.no_grad():
        run.model.lm_head.weight.copy_(before["lm_head.weight"])
        run.model.model.embed_tokens.weight[:] = float("inf")
    with pytest.raises(TrainingDivergedError, match=r"Step 2: the embedding stream is nan"):
        run.step()
    assert torch.equal(run.model.model.norm.weight, before["model.norm.weight"])


def test_one_stream_alone_trains_too(tmp_path: Path) -> None:
    only = Run(tiny_recipe(tmp_path / "a", bag_steps=0, embedding_weight=0.0))
    assert "embedding" not in only.step()
    other = Run(tiny_recipe(tmp_path / "b", bag_steps=0, generative_weight=0.0))
    record = other.step()
    assert "generative" not in record
    assert other.model.lm_head.weight.grad is None


def test_rates_warm_up_and_follow_the_cosine(tmp_path: Path) -> None:
    run = Run(tiny_recipe(tmp_path, bag_steps=0, steps=100))
    seen = []
    for at in (0, 4, 50, 99):
        run.progress.step = at
        run._set_rates()
        seen.append([group["lr"] / group["peak"] for group in run.optimiser.param_groups])
    assert all(len(set(each)) == 1 for each in seen)
    first, warm, middle, last = (each[0] for each in seen)
    assert first == pytest.approx(0.2, abs=0.01)
    assert warm == pytest.approx(1.0, abs=0.01)
    assert middle == pytest.approx(0.525, abs=0.01)
    assert last == pytest.approx(0.05, abs=0.01)


def test_minutes_end_the_schedule(tmp_path: Path) -> None:
    result = train(tiny_recipe(tmp_path, steps=100_000, minutes=0.01), progress=False)
    assert result.finished
    assert result.steps < 1000


def test_a_linear_schedule_falls_straight(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0, steps=100)
    settings = dataclasses.replace(config.optimiser, schedule="linear", final_rate=0.0, warmup_steps=0)
    run = Run(dataclasses.replace(config, optimiser=settings))
    for at, share in ((0, 1.0), (25, 0.75), (99, 0.01)):
        run.progress.step = at
        run._set_rates()
        assert [group["lr"] for group in run.optimiser.param_groups] == [
            pytest.approx(group["peak"] * share) for group in run.optimiser.param_groups
        ]


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    single, double = (Run(tiny_recipe(tmp_path / str(n), bag_steps=0, accumulate=n)) for n in (1, 2))
    batches = [[objective.next_batch() for objective in single.objectives] for _ in range(2)]
    expected = [
        sum(objective.loss(single.module, batch[at]).value.item() for batch in batches) / 2
        for at, objective in enumerate(single.objectives)
    ]
    record = double.step()
    assert [record["embedding"], record["generative"]] == pytest.approx(expected, rel=1e-5)
    assert double.progress.step == 1
    assert [objective.position.batch for objective in double.objectives] == [2, 2]


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    plain, kept = (
        Run(tiny_recipe(tmp_path / str(wanted), bag_steps=0, gradient_checkpointing=wanted)) for wanted in (False, True)
    )
    for _ in range(3):
        one, two = plain.step(), kept.step()
        assert [one["embedding"], one["generative"]] == pytest.approx([two["embedding"], two["generative"]], rel=1e-5)


@pytest.mark.extended
def test_compiled_layers_change_no_loss(tmp_path: Path) -> None:
    plain, compiled = (
        Run(tiny_recipe(tmp_path / str(wanted), bag_steps=0, torch_compile=wanted)) for wanted in (False, True)
    )
    for _ in range(3):
        one, two = plain.step(), compiled.step()
        assert [one["embedding"], one["generative"]] == pytest.approx([two["embedding"], two["generative"]], rel=1e-4)


def test_a_new_objective_needs_nothing_from_the_trainer(tmp_path: Path) -> None:
    class Shrink:
        """Keeps the head small; its rows are numbers."""

        name, weight, every = "shrink", 0.5, 1
        position = Position()

        def seek(self, position: Position) -> None:
            self.position = position

        def next_batch(self) -> int:
            self.position = Position(0, self.position.batch + 1)
            return self.position.batch

        def loss(self, module: GritModule, batch: int) -> Loss:
            return Loss(module.head_weight.pow(2).mean(), {"batch": batch})

    config = tiny_recipe(tmp_path, bag_steps=0, steps=4, checkpoint_every=2)
    run = Run(config)
    run.objectives.append(Shrink())
    record = run.step()
    assert record["shrink"] > 0
    assert record["shrink.batch"] == 1
    run.step()
    run._save()
    saved = json.loads((tmp_path / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert saved["progress"]["positions"]["shrink"] == {"epoch": 0, "batch": 2}


def test_the_metrics_are_drawn(trained: Trained) -> None:
    picture = Path(trained.config.output) / "metrics.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_what_the_lengths_cut_is_said_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tiny_recipe(tmp_path))
    found = [r.getMessage() for r in caplog.records if "data.text_tokens = 96 tokens" in r.getMessage()]
    assert len(found) == 1
    assert found[0].startswith("44 of ")
    assert "names.jsonl" not in caplog.text


def test_the_export_loads_with_stock_transformers(trained: Trained) -> None:
    path = trained.result.model
    model = AutoModelForCausalLM.from_pretrained(path)
    assert type(model).__name__ == "MistralForCausalLM"
    assert json.loads((path / "config.json").read_text())["architectures"] == ["MistralForCausalLM"]
    assert model.config.sliding_window is None
    assert model.dtype == torch.bfloat16
    assert sorted(file.suffix for file in path.iterdir()) == [".json"] * 5 + [".md", ".safetensors"]
    card = (path / "README.md").read_text()
    assert "60 steps" in card
    assert str(Path(trained.config.output)) not in card
    weights = load_file(Path(trained.config.output) / "best.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name].to(torch.bfloat16)), name


def test_the_exported_model_is_bidirectional_through_the_view_and_causal_without(trained: Trained) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained.result.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.result.model)
    one = tokenizer("the hill of Arnwick", return_tensors="pt")["input_ids"]
    two = one.clone()
    two[0, -1] = tokenizer.convert_tokens_to_ids("w")
    with torch.no_grad():
        causal = [model.model(ids).last_hidden_state[0, 1] for ids in (one, two)]
        view = bidirectional_view(model.model)
        both = [view(ids).last_hidden_state[0, 1] for ids in (one, two)]
    assert torch.equal(causal[0], causal[1])
    assert not torch.allclose(both[0], both[1], atol=1e-4)


def test_golden_ids_are_those_of_the_saved_tokenizer(trained: Trained) -> None:
    saved = json.loads((trained.result.model / "grit_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(trained.result.model)
    assert (saved["format"], saved["pooling"]) == (1, "mean")
    embed, instructed, assistant = "<|embed|>\n", "<|user|>\nInstr.\n<|embed|>\nhello", "<|assistant|>\n"
    assert saved["golden"][embed] == tokenizer(embed)["input_ids"]
    assert saved["golden"][embed][0] == tokenizer.bos_token_id
    assert saved["golden"][instructed] == tokenizer(instructed)["input_ids"]
    assert saved["golden"][assistant] == tokenizer(assistant, add_special_tokens=False)["input_ids"]


def test_training_goes_on_from_an_exported_checkpoint(trained: Trained, tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0, steps=2)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpoint=str(trained.result.model)))
    run = Run(config)
    fresh = Run(tiny_recipe(tmp_path / "fresh", bag_steps=0))  # sees the same first batch
    assert run.step()["generative"] < fresh.step()["generative"] - 0.3
    assert run.model.dtype == torch.float32


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path / "out")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpoint=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="none"):
        Run(config)
