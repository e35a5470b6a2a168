"""The command `grit`: what people see, what scripts get, and what goes wrong in one line."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from command_line import good, grit, refusal
from rich.console import Console

import grit_integrations.training
from grit_integrations import CollectionMismatchError, ContextOverflowError, Decoding, GritLM
from grit_integrations.cli import commands
from grit_integrations.cli.answering import Answerer
from grit_integrations.cli.models import is_bundled
from grit_integrations.cli.output import WrappedStream, byte_size
from grit_integrations.cli.quotes import print_quote
from grit_integrations.ingest import PassageIndex
from grit_integrations.results import Quote
from grit_integrations.training import TrainResult

COMMANDS = ("demo", "index", "ask", "chat", "train", "evaluate", "info")
GROUPS = ("cache",)
RUN = "from grit_integrations.cli import app; app()"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "heart.md").write_text("# Heart\n\nThe heart pumps blood. It beats all day long.")
    (folder / "stars.txt").write_text("Stars shine by fusion. They are very far away.")
    return folder


@pytest.fixture
def store(tmp_path: Path, docs: Path, tiny: GritLM) -> Path:
    PassageIndex(tmp_path / "store", tiny, create=True).index([docs])
    return tmp_path / "store"


def quoted(said: str) -> tuple[str, str]:
    """Return the quote that an answer begins with, and the number of its source."""
    found = re.match(r"“([^”]+)” \[(\d+)\]", said)
    assert found is not None, said
    return " ".join(found[1].split()), found[2]


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    text = good(command, "--help")
    assert "Examples" in text
    assert text.count(f"grit {command} ") + text.count(f"grit {command}\n") >= 2
    if command != "train":
        assert "--model" in text or re.search(r"\bMODEL\b", text)  # `evaluate` takes it as an argument
        assert "GRIT_MODEL" in text
    assert "--device" in text


def test_help_lists_the_commands() -> None:
    text = good("--help")
    assert all(re.search(rf"│ {command}\s", text) for command in COMMANDS + GROUPS)
    assert "grit demo" in text


def test_help_loads_nothing_heavy() -> None:
    check = "import sys; from grit_integrations.cli import app; app(['index', '--help'], standalone_mode=False); "
    check += "print([m for m in ('torch', 'transformers', 'chromadb', 'langchain_core', 'llama_index', 'numpy') "
    check += "if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


# Work


def test_index_ask_and_forget(docs: Path, tmp_path: Path, tiny_path: Path) -> None:
    store = tmp_path / "s"
    first = good("index", docs, "--store", store, "--model", tiny_path)
    assert "Files: 2 added" in first
    assert "Passages: 2" in first
    (docs / "stars.txt").unlink()
    (docs / "rails.html").write_text("<p>A railway crosses the plain.</p>")
    (docs / "x.pdf").write_bytes(b"no pdf")
    (docs / "y.bin").write_bytes(b"\x00")
    second = good("index", docs, "--store", store)  # the store's model
    assert "Files: 1 added, 1 unchanged, 1 removed, 1 not readable, 1 of other kinds" in second
    assert re.search(r"x\.pdf: the file is no readable PDF", second)
    asked = good("ask", "What pumps blood?", "--store", store, "--quote", "-k", 2)
    quote, number = quoted(asked)
    source = next(line for line in asked.splitlines() if line.startswith(f" [{number}]")).split()[2]
    text = (docs.parent / source if Path(source).is_absolute() else Path(source)).read_text()
    assert quote in " ".join(re.sub("<[^>]+>", "", text).split())
    assert "Sources" in asked
    assert "heart.md" in asked
    assert "rails.html" in asked
    assert "sentences of the passages" not in asked  # only said of grit-mini
    good("index", "--forget", docs / "heart.md", "--store", store)
    assert "heart.md" not in good("ask", "What pumps blood?", "--store", store, "--quote")


def test_ask_writes_what_the_model_generates(store: Path, tiny: GritLM) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--free", "--max-tokens", 8, "-k", 1)
    hit = PassageIndex(store, tiny).search("What pumps blood?", k=1)[0]
    passages = [hit.document.page_content]
    written = tiny.generate("What pumps blood?", passages, decoding=Decoding(max_new_tokens=8), caching="off")
    assert written.text.strip() in asked
    assert "cache:" not in asked  # it is off
    assert hit.source.rsplit("/", 1)[-1] in asked


def test_ask_answers_from_the_passages_that_the_model_judges_best(store: Path, tiny: GritLM) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--free", "--max-tokens", 4, "-k", 1, "--rerank", 2)
    hits = PassageIndex(store, tiny).search("What pumps blood?", k=2)
    (best,) = tiny.rerank("What pumps blood?", [hit.document.page_content for hit in hits], top_n=1)
    assert "(relevance)" in asked
    (line,) = (line for line in asked.splitlines() if line.startswith(" [1]"))
    assert f"{best.score:.3f}" in line
    assert Path(hits[best.index].source).name in line
    assert "(cosine similarity)" in good("ask", "What pumps blood?", "--store", store, "--max-tokens", 4)


def test_other_models_write_by_default(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--max-tokens", 4)
    assert "“" not in asked.split("Sources")[0]


def test_passages_that_do_not_fit_are_left_out(docs: Path, tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", max_position_embeddings=96)
    store = tmp_path / "s"
    good("index", docs, "--store", store, "--model", short)
    assert "of 2 passages did not fit" in good("ask", "What?", "--store", store, "--free", "--max-tokens", 32)
    assert "Shorten it" in refusal("ask", "word " * 45, "--store", store, "--free", "--max-tokens", 48)
    assert "one passage have" in refusal("ask", "word " * 45, "--store", store, "--quote", "--max-tokens", 48)


def test_chat_remembers(store: Path, tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, passages = [], []
    stream = tiny.stream

    def spying(self: GritLM, messages: list[object], documents: list[str], **options: object) -> object:
        prompts.append(messages)
        passages.append(documents)
        return stream(messages, documents, **options)

    monkeypatch.setattr(GritLM, "stream", spying)
    given = "What pumps blood?\n\nAnd at night?\n/new\nWhy do stars shine?\n/quit\nnever asked\n"
    said = good("chat", "--store", store, "--free", "--max-tokens", 4, given=given)
    assert [len(messages) for messages in prompts] == [1, 3, 1]
    assert prompts[1][0].content == "What pumps blood?"  # the history has no passages in it
    assert [len(documents) for documents in passages] == [2, 2, 2]
    assert said.count("Sources") == 3


def test_chat_quotes_and_ends_with_the_input(store: Path) -> None:
    said = good("chat", "--store", store, "--quote", given="What pumps blood?\nAnd at night?\n")
    assert len(re.findall(r"“[^”]+” \[[12]\]", said)) == 2


def test_a_quote_is_on_lines_of_the_width() -> None:
    out = Console(width=60, file=io.StringIO())
    print_quote(out, Quote("The heart pumps\nblood. " + "It never rests. " * 9, 1, 0, 30, -0.5), indent=4)
    lines = out.file.getvalue().splitlines()
    assert lines[0].startswith("    “The heart pumps blood. It")
    assert " ".join(map(str.strip, lines)).endswith("never rests.” [2]")
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("    ") for line in lines)


def test_a_person_keeps_the_chat_when_a_question_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = []

    def answer(self: Answerer, question: str) -> None:
        answered.append(question)
        raise {"long": ContextOverflowError("too long"), "stop": KeyboardInterrupt()}[question]

    monkeypatch.setattr(Answerer, "answer", answer)
    assert grit("chat", "--store", store, given="long\nstop\n").exit_code == 1  # a script learns of it
    assert answered == ["long"]
    monkeypatch.setattr(commands, "is_terminal", lambda: True)
    result = grit("chat", "--store", store, given="long\nstop\n")
    assert result.exit_code == 0
    assert answered == ["long", "long", "stop"]
    assert "Error: too long" in result.stderr
    assert "interrupted" in result.stderr


def test_info(store: Path, tiny: GritLM) -> None:
    text = good("info", "--store", store)
    assert tiny.fingerprint in text
    assert re.search(r"Device +cpu", text)
    assert re.search(r"Precision +float32", text)
    assert re.search(r"Memory +[\d.]+ MiB of weights, [\d.]+ [MG]iB peak of the process", text)
    assert "2 passages" in text


def test_info_without_a_store(tiny_path: Path, tmp_path: Path) -> None:
    assert "Store" not in good("info", "--store", tmp_path / "none", "--model", tiny_path)


def test_environment_names_the_model(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_MODEL", str(tiny_path))
    assert "MistralForCausalLM" in good("info", "--store", tmp_path / "none")


def test_train_hands_the_recipe_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(config: object, *, resume: bool = True, progress: bool | None = None) -> TrainResult:
        seen.append((config, resume))
        return TrainResult(steps=3, finished=resume, minutes=0.1, best={"ndcg": 0.5}, model=tmp_path / "model")

    monkeypatch.setattr(grit_integrations.training, "train", fake)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('output = "out"\n[data]\ndata = "data"\n')
    assert "Finished after step 3" in good("train", recipe)
    assert "Interrupted" in good("train", recipe, "--fresh", "--device", "cpu")
    assert [resume for _, resume in seen] == [True, False]
    assert seen[1][0].device == "cpu"
    assert "cpu or cuda" in refusal("train", recipe, "--device", "tpu")
    recipe.write_text('outptu = "out"\n')
    assert "nearest known key is output" in refusal("train", recipe)


# Errors


def test_what_goes_wrong_is_one_line(store: Path, docs: Path, tmp_path: Path, tiny_path: Path) -> None:
    assert "missing does not exist" in refusal("index", docs, tmp_path / "missing", "--store", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "no store at" in refusal("ask", "What?", "--store", tmp_path / "new", "--model", tiny_path)
    assert "no store at" in refusal("index", "--forget", docs, "--store", tmp_path / "new", "--model", tiny_path)
    assert "Query 0 is empty" in refusal("ask", " ", "--store", store)
    assert "not empty and holds no store" in refusal("index", docs, "--store", docs, "--model", tiny_path)
    assert "no directory and no hub id" in refusal("info", "--model", "./nothing", "--store", tmp_path / "new")
    assert "Passages of 5 tokens" in refusal(
        "index", docs, "--store", tmp_path / "new", "--model", tiny_path, "--passage-tokens", 5
    )
    assert "cuda:9" in refusal("info", "--store", store, "--device", "cuda:9")
    assert "recipe" in refusal("train", tmp_path / "nothing.toml")
    assert grit("ask", "What?", "--store", store, "-k", 0).exit_code == 2  # usage


def test_an_empty_store_says_so(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "store", tiny, create=True)
    assert "is empty. Fill it with: grit index" in refusal("ask", "What?", "--store", tmp_path / "store")


def test_another_model_is_refused_with_both_fingerprints(
    store: Path, docs: Path, tiny: GritLM, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1)
    for command in (["ask", "What?"], ["chat"], ["index", docs]):
        said = refusal(*command, "--store", store, "--model", other)
        assert tiny.fingerprint in said
        assert GritLM(other).fingerprint in said
    result = grit("ask", "What?", "--store", store, "--model", other, "--debug")
    assert isinstance(result.exception, CollectionMismatchError)


def test_a_wrong_checkpoint_is_refused(store: Path, tmp_path: Path, docs: Path) -> None:
    broken = write_checkpoint(tmp_path / "broken")
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "truncated" in refusal("index", docs, "--store", tmp_path / "new", "--model", broken)
    assert not (tmp_path / "new").exists()


# As a process


def test_a_pipe_gets_plain_lines(store: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN, "ask", "What pumps blood?", "--store", str(store), "--quote"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout
    assert "docs/heart.md" in run.stdout  # relative to where the command runs


# A shell's background jobs, and what they start, ignore SIGINT; this one must heed it wherever the tests run.
HEED_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def test_interrupt_stops_cleanly_and_the_next_run_goes_on(tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(600):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 20 for n in range(12)))
    command = [sys.executable, "-c", HEED_INTERRUPTS + RUN, "index", str(docs)]
    command += ["--store", str(tmp_path / "s"), "--model", str(tiny_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        records = tmp_path / "s" / "records.sqlite"
        while not records.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Stopped." in said
    assert "Traceback" not in said
    for number in range(4, 600):
        (docs / f"{number}.txt").unlink()
    good("index", docs, "--store", tmp_path / "s")
    assert PassageIndex(tmp_path / "s", tiny).count() == len(PassageIndex(tmp_path / "s", tiny).vectors.get()["ids"])


# Small things


@pytest.mark.parametrize(
    "pieces",
    [["The he", "art pumps", " blood", ".\n\nIt bea", "ts."], list("The heart pumps blood.\n\nIt beats."), ["x" * 50]],
)
def test_streamed_text_wraps_between_words(pieces: list[str]) -> None:
    out = Console(width=16, file=io.StringIO())
    shown = WrappedStream(out, indent=2)
    for piece in pieces:
        shown.add(piece)
    shown.end()
    text = out.file.getvalue()
    if len(pieces) == 1:
        assert text.split() == ["x" * 14] * 3 + ["x" * 8]
    else:
        assert [line.rstrip() for line in text.splitlines()] == ["  The heart", "  pumps blood.", "", "  It beats."]


def test_streamed_text_wraps_wide_characters() -> None:
    out = Console(width=8, file=io.StringIO())
    shown = WrappedStream(out, indent=1)
    shown.add("星は融合で輝く。")
    shown.end()
    assert out.file.getvalue().split() == ["星は融", "合で輝", "く。"]


def test_byte_sizes() -> None:
    assert [byte_size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


def test_bundled_model_answers_in_quotes(mini: GritLM, docs: Path, tmp_path: Path) -> None:
    assert is_bundled(mini)
    good("index", docs, "--store", tmp_path / "s")
    asked = good("ask", "What pumps blood?", "--store", tmp_path / "s")
    quote, _ = quoted(asked)
    assert any(quote in path.read_text() for path in docs.iterdir())
    assert "grit-mini answers with sentences of the passages" in asked
