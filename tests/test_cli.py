"""cli and doctor: one clear message and an exit code, on a terminal and in a pipe."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from plm_tutorial import __version__, assets, cli, doctor
from plm_tutorial.assets import Asset, AssetFile
from plm_tutorial.runtime import file_sha256

CONTENT = b"A tiny file.\n"


@pytest.fixture
def stick(tmp_path, monkeypatch) -> Path:
    """The registry holds one tiny asset; the cache is empty; the returned folder has the asset's file."""
    place = tmp_path / "stick"
    place.mkdir()
    (place / "file.txt").write_bytes(CONTENT)
    file = AssetFile("file.txt", file_sha256(place / "file.txt"), len(CONTENT), "tiny_asset/file.txt")
    monkeypatch.setattr(assets, "REGISTRY", {"tiny": Asset("tiny", "test", "none", (file,), "tiny-asset==1.0", 1)})
    monkeypatch.setenv("PLM_HOME", str(tmp_path / "home"))
    for name in ("PLM_SCALE", "PLM_SEED", "PLM_DEVICE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return place


def call(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def stored(tmp_path: Path) -> Path:
    return tmp_path / "home" / "assets" / "tiny" / "file.txt"


# --- export --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_bert(tmp_path) -> Path:
    """A tiny BERT in a folder, without a tokenizer."""
    from plm_tutorial import export, models

    config = models.BertConfig(vocab_size=8, context_length=8, d_model=8, n_layers=1, n_heads=1, d_hidden=8)
    return export(models.Bert(config), tmp_path / "small")


def test_export_writes_a_folder_and_lists_it(small_bert, tmp_path):
    done = call("export", str(small_bert), str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["config.json", "model.safetensors", str(tmp_path / "out")]
    assert re.fullmatch(r"model.safetensors +[\d,]+ bytes", lines[1])
    weights = [(folder / "model.safetensors").read_bytes() for folder in (small_bert, tmp_path / "out")]
    assert weights[0] == weights[1]


def test_export_takes_the_tokenizer_along(small_bert, tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(small_bert / "tokenizer.json"))
    done = call("export", str(small_bert), str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "tokenizer.json").is_file() and (tmp_path / "out" / "tokenizer_config.json").is_file()


def test_export_says_what_is_wrong_without_a_traceback(small_bert, tmp_path):
    done = call("export", "minillm", str(tmp_path / "out"))
    assert done.exit_code == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("plm-tutorial: 'minillm' is no registry name") and "Did you mean 'minilm'" in done.stderr
    )
    done = call("export", str(small_bert), str(small_bert))
    assert done.exit_code == 1 and "is not empty; pass another one" in done.stderr
    assert call("export", str(small_bert), str(small_bert), "--overwrite").exit_code == 0


# --- fetch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[], ["tiny"]])
def test_fetch_ends_with_a_table(stick, tmp_path, names):
    done = call("fetch", *names, "--from", str(stick))
    assert done.exit_code == 0
    assert done.stdout == f"tiny                13 bytes  {stored(tmp_path).parent}\n"
    assert stored(tmp_path).read_bytes() == CONTENT


def test_fetch_says_what_is_wrong_without_a_traceback(stick):
    done = call("fetch", "tinny", "--from", str(stick))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == ("plm-tutorial: there is no asset named 'tinny'; known: tiny. Did you mean 'tiny'?\n")


def test_fetch_from_a_folder_that_is_not_there(stick):
    done = call("fetch", "--from", str(stick / "nowhere"))
    assert done.exit_code == 1
    assert re.fullmatch("plm-tutorial: source is '.*/nowhere'; give 'wheel', 'hub' or a folder .*\n", done.stderr)


def test_fetch_refuses_two_sources(stick):
    done = call("fetch", "--from", str(stick), "--source", "hub")
    assert done.exit_code == 2
    assert "give --from or --source, not both" in done.stderr
    assert call("fetch", "--source", "disc").exit_code == 2


def test_source_is_passed_on(stick):
    done = call("fetch", "--source", "hub")
    assert done.exit_code == 1
    assert "tiny is not on the hub" in done.stderr


def test_version():
    assert call("--version").stdout == f"{__version__}\n"


def test_help_and_fetch_do_not_wait_for_torch(stick, tmp_path):
    program = (
        "import sys\nfrom plm_tutorial.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'torch', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
    )
    for arguments in (["--help"], ["fetch", "--help"]):
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def test_installed_command():
    command = Path(sys.executable).with_name("plm-tutorial")
    if not command.exists():
        pytest.skip("the package is on the path, but not installed")
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, check=True)
    assert "fetch" in done.stdout and "doctor" in done.stdout


# --- doctor --------------------------------------------------------------------------------------------------------


def lines(done) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith(("problem", "note"))]


def test_doctor_on_a_healthy_machine(stick, tmp_path):
    assets.fetch(source=stick)
    done = call("doctor")
    assert done.exit_code == 0, done.stdout
    assert lines(done) == []
    assert done.stdout.endswith("Everything is in place.\n")
    assert re.search(r"torch +>=\S+ +\d\S+ +ok", done.stdout)
    assert re.search(r"tiny +13 bytes +verified", done.stdout)
    assert re.search(r"PLM_SCALE +cpu", done.stdout)
    assert re.search(r"device +(cpu|cuda|mps)", done.stdout)


def test_doctor_on_an_absent_asset(stick):
    done = call("doctor")
    assert done.exit_code == 0
    assert lines(done) == ["note: tiny is not here; a page that needs it fetches it: plm-tutorial fetch tiny"]


def test_doctor_on_a_damaged_asset(stick, tmp_path):
    assets.fetch(source=stick)
    stored(tmp_path).write_bytes(b"short")
    done = call("doctor")
    assert done.exit_code == 1
    fault = "is damaged, it has 5 bytes instead of 13: plm-tutorial fetch tiny"
    assert lines(done) == [f"problem: {stored(tmp_path)} {fault}"]


def test_doctor_on_wrong_settings(stick, monkeypatch):
    monkeypatch.setenv("PLM_SCALE", "big")
    monkeypatch.setenv("PLM_SEED", "x")
    monkeypatch.setenv("PLM_DEVICE", "tpu")
    monkeypatch.setenv("PLM_HOME", "/dev/null/home")
    done = call("doctor")
    assert done.exit_code == 1
    problems = [line for line in lines(done) if line.startswith("problem")]
    assert len(problems) == 4
    assert re.match("problem: device 'tpu' is not available here.* Pass one of these, or unset PLM_DEVICE", problems[0])
    assert problems[1] == "problem: PLM_SCALE is 'big': set it to one of smoke, cpu, gpu, or unset it for 'cpu'"
    assert problems[2].startswith("problem: PLM_SEED is 'x': set it to a whole number")
    assert problems[3].startswith("problem: the cache /dev/null/home cannot be written, /dev/null is a file: make it ")


def test_doctor_on_too_small_a_disk(stick, monkeypatch):
    asset = assets.REGISTRY["tiny"]
    huge = AssetFile("huge", "0" * 64, 10**18, "tiny_asset/huge")
    monkeypatch.setitem(assets.REGISTRY, "tiny", Asset("tiny", "", "", (*asset.files, huge), asset.wheel, 1))
    done = call("doctor")
    assert done.exit_code == 1
    assert re.search("problem: 1000000000.0 GB are to be fetched, .* are free: make room, or set PLM_HOME", done.stdout)


def test_packages_missing_or_out_of_range(stick, tmp_path, monkeypatch):
    about = tmp_path / "site" / "plm_tutorial-9.dist-info"
    about.mkdir(parents=True)
    needs = ["surely-not-there>=1.5", "rich>=999", "typer>=0.1", 'other; extra == "book"', 'w; sys_platform == "none"']
    text = "Metadata-Version: 2.1\nName: plm-tutorial\nVersion: 9\nRequires-Python: >=3.2\n"
    (about / "METADATA").write_text(text + "".join(f"Requires-Dist: {need}\n" for need in needs))
    monkeypatch.syspath_prepend(tmp_path / "site")
    done = call("doctor")
    assert done.exit_code == 1
    rows = re.findall(r"^ +(\S+) +(>=\S+) +(\S+) +(ok|missing|too old or too new)\s*$", done.stdout, re.MULTILINE)
    assert [(row[0], row[3]) for row in rows] == [
        ("python", "ok"),
        ("surely-not-there", "missing"),
        ("rich", "too old or too new"),
        ("typer", "ok"),
    ]
    problems = [line for line in lines(done) if line.startswith("problem")]
    assert problems[0] == 'problem: surely-not-there is missing: python -m pip install "surely-not-there>=1.5"'
    assert re.fullmatch(r'problem: rich is \d\S+, not >=999: python -m pip install "rich>=999"', problems[1])


def test_real_requirements():
    shown = [row[0] for row in doctor.packages().rows]
    assert shown[0] == "python" and {"torch", "numpy", "datasets", "tokenizers"} <= set(shown)
    assert not {"jupyter-book", "pytest", "jupyterlab"} & set(shown)  # of the optional sets


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_doctor_is_readable_in_a_pipe(stick, encoding):
    # The registry of this new process is the real one; the cache is empty.
    env = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    program = "from plm_tutorial.cli import app; app(['doctor'])"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)
    text = done.stdout.decode(encoding)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines() if not line.startswith(("problem", "note"))) <= 80
    for name in ("movie_reviews", "minilm", "smollm2"):
        assert re.search(rf"{name} .*absent", text)


def test_long_lines_are_not_broken(stick, tmp_path, capsys):
    assets.fetch(source=stick)
    stored(tmp_path).write_bytes(b"")
    doctor.run(Console(width=80))
    assert re.search(r"^problem: /.*instead of 13: plm-tutorial fetch tiny$", capsys.readouterr().out, re.MULTILINE)


# --- generate, chat ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_chat(tmp_path_factory) -> Path:
    """A tiny Llama with SmolLM2's tokenizer, in a folder."""
    import torch

    from plm_tutorial import export, load_tokenizer, models

    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_hidden": 16}
    model = models.Llama(models.LlamaConfig(vocab_size=49152, context_length=96, init_std=0.3, **shape))
    return export(model, tmp_path_factory.mktemp("models") / "chat", load_tokenizer("smollm2"))


def _adapter(model: Path, folder: Path) -> Path:
    import torch

    from plm_tutorial import load_model
    from plm_tutorial.adaptation import LoraConfig, inject
    from plm_tutorial.pretrained import save_adapter

    adapted = inject(load_model(model, device="cpu"), LoraConfig(rank=2))
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=3.0, generator=torch.Generator().manual_seed(0))
    return save_adapter(adapted, folder)


def test_generate_goes_on_from_a_text_with_the_same_seed_the_same(small_chat, tmp_path):
    command = ("generate", "Once upon", "--model", str(small_chat), "--max-tokens", "8")
    first, again, other = (call(*command, "--seed", seed) for seed in ("1", "1", "2"))
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith("Once upon") and len(first.stdout) > len("Once upon\n")
    assert first.stdout == again.stdout != other.stdout
    greedy, cold = (call(*command, "--temperature", "0", "--seed", seed) for seed in ("1", "2"))
    assert greedy.stdout == cold.stdout
    adapted = call(*command, "--temperature", "0", "--adapter", str(_adapter(small_chat, tmp_path / "adapter")))
    assert adapted.exit_code == 0 and adapted.stdout != greedy.stdout
    piped = CliRunner().invoke(cli.app, ["generate", "-", *command[2:], "--seed", "1"], input="Once upon")
    assert piped.stdout == first.stdout


def test_generate_says_what_is_wrong_without_a_traceback(small_chat, tmp_path):
    from plm_tutorial.records import artifacts

    model = ("--model", str(small_chat))
    for arguments, message in (
        (("generate", ""), "the prompt is empty"),
        (("generate", "Hi", "--max-tokens", "5", "--temperature", "-1"), "temperature is -1.0; expected 0"),
        (("generate", "Hi", "--max-tokens", "5", "--top-p", "2"), "top_p is 2.0; expected a probability"),
        (("generate", "Hi", "--max-tokens", "100"), "the context of this model is 96 tokens"),
        (("generate", "Hi", "--adapter", str(tmp_path)), "adapter_config.json"),
        (("generate", "Hi", "--model", "smollm"), "Did you mean 'smollm2'"),
        (("generate", "Hi", "--model", "minilm"), "minilm is a Bert, which does not go on with a text"),
        (("chat", "--model", str(artifacts() / "reviews_causal")), "this tokenizer has no <|im_start|>"),
    ):
        done = call(*arguments, *(() if "--model" in arguments else model))
        assert done.exit_code == 1 and message in done.stderr, (arguments, done.stderr)


def test_chat_replies_to_each_line_and_remembers_the_conversation(small_chat):
    options = ["--model", str(small_chat), "--max-tokens", "5", "--seed", "3"]
    both = CliRunner().invoke(cli.app, ["chat", *options], input="Hi!\nAgain.\n\nnot read\n")
    assert both.exit_code == 0, both.stderr
    first, second, end = both.stdout.split("\n")
    assert end == "" and "not read" not in both.stdout
    one = CliRunner().invoke(cli.app, ["chat", *options], input="Hi!\n")
    assert one.stdout == first + "\n"  # and the end of the input ends it
    alone = CliRunner().invoke(cli.app, ["chat", *options, "--temperature", "0"], input="Again.\n")
    after = CliRunner().invoke(cli.app, ["chat", *options, "--temperature", "0"], input="Hi!\nAgain.\n")
    assert after.stdout.split("\n")[1] != alone.stdout.split("\n")[0]
    told = CliRunner().invoke(cli.app, ["chat", *options, "--system", "Be a pirate."], input="Hi!\n")
    assert told.exit_code == 0 and told.stdout != one.stdout
    long = CliRunner().invoke(cli.app, ["chat", *options], input="word " * 100 + "\n")
    assert long.exit_code == 1 and "the context of this model is 96 tokens" in long.stderr


def test_text_is_written_piece_by_piece(capsys):
    seen = []

    def pieces():
        for piece in ("Hel", "lo"):
            yield piece
            seen.append(capsys.readouterr().out)

    assert cli._write(pieces(), "> ") == "Hello"
    assert seen == ["> Hel", "lo"]


# --- ask -----------------------------------------------------------------------------------------------------------


def test_ask_names_sections_with_their_links():
    from tests.conftest import recorded_or_skip

    recorded_or_skip("questions")
    done = call("ask", "why divide by the square root of d_k?", "--sections", "2")
    assert done.exit_code == 0, done.stderr
    assert (
        re.search(r"^1\. .+, in: .+$", done.stdout, re.MULTILINE)
        and "\n2. " in done.stdout
        and "\n3. " not in done.stdout
    )
    assert "chapters/03_attention.html#why-divide-by-sqrtk" in done.stdout


def test_ask_says_when_the_book_probably_does_not_answer():
    from tests.conftest import recorded_or_skip

    recorded_or_skip("questions")
    done = call("ask", "What is a good recipe for risotto?", "--answer")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("The book probably does not answer this.") and "SmolLM2" not in done.stdout


def test_ask_nothing():
    from tests.conftest import recorded_or_skip

    recorded_or_skip("questions")
    done = call("ask", " ")
    assert done.exit_code == 1 and done.stderr.startswith("plm-tutorial: the question is empty")
