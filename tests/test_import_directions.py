"""Imports point one way: a file imports only rows below its own, or its own row's folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rows of docs/architecture.md, lowest first.
ROWS = (
    {
        "__init__",
        "errors",
        "files",
        "console",
        "keras_start",
        "native_output",
        "_import_path",
        "augmentation_config",
        "augmentation_changes",
        "config",
        "config_rules",
        "probe_config",
        "model_option",
        "command_line",
    },
    {
        "corpus",
        "corpus_tasks",
        "corpus_check",
        "hardware",
        "audio_decoders",
        "downmix",
        "isolated_decoder",
        "worker_process",
        "audio_files",
        "audio_listing",
        "audio_signatures",
        "audio",
        "resampling",
        "clips",
        "window_stream",
        "labelled_clips",
        "corpus_resolution",
        "metrics",
        "cluster",
        "rendezvous",
        "time_limit",
        "distribution",
        "attendance",
        "xla_start",
        "restricted_pickle",
        "tag_names",
    },
    {"augment", "models", "nt_xent", "optimizers", "learning_rates", "loss_scale", "plateau", "weight_update"},
    {"trained_model", "contrastive", "supervised", "encoder", "head", "linear_probe"},
    {
        "checkpoint",
        "checkpoint_folder",
        "model_card",
        "model_card_code",
        "model_card_scores",
        "model_folder",
        "model_manifest",
        "model_replacing",
        "model_writing",
        "run_folder",
        "source_revision",
        "run_log",
        "run_examples",
        "pretrained",
        "probe_head",
        "model_building",
        "run_settings",
        "runtimes",
        "loop",
        "evaluation",
        "reporting",
        "serving",
        "pytorch",
    },
    {
        "training",
        "training_music",
        "training_run",
        "probing",
        "head_probing",
        "embedding_stream",
        "embedding_table",
        "embedding_files",
        "similarity",
        "taggram",
        "recipe",
        "conversion",
    },
    {"train", "export", "probe", "embed", "tag", "similar", "report", "recipes", "convert"},
    {"__main__"},
)
COMMANDS = ROWS[-2]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}


def modules_in(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, `from a.b import c` as both a.b and a.b.c."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "clmr_tf").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules_in("clmr_tf"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_points_back(path):
    room = room_of(path)
    assert room in ROW_OF, f"{path.name} stands in no row; add it to the table here and in docs/architecture.md"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "pipelines":
            # The one door, through which a corpus is prepared on demand.
            assert room == "corpus_resolution", f"{room} imports {name}"
        if parts[0] != "clmr_tf" or len(parts) == 1 or parts[1] not in ROW_OF:
            continue
        other = parts[1]
        assert ROW_OF[other] <= ROW_OF[room], f"{room} (row {ROW_OF[room]}) imports {other} (row {ROW_OF[other]})"
        if room in COMMANDS:
            assert other not in COMMANDS - {room}, f"the command {room} imports the command {other}"


def test_within_a_row_no_imports_form_a_circle():
    arrows = {}
    for path in modules_in("clmr_tf"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        arrows[module] = {name for name in imports_of(path) if name.startswith("clmr_tf.")} - {module}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        seen.add(start)
        following = arrows.get(start, set())
        return goal in following or any(reaches(n, goal, seen) for n in following if n in arrows and n not in seen)

    circles = [module for module in arrows if reaches(module, module, set())]
    assert circles == []


@pytest.mark.parametrize("path", modules_in("pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_pipelines_import_only_the_two_lowest_rows(path):
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "clmr_tf" and len(parts) > 1 and parts[1] in ROW_OF:
            assert ROW_OF[parts[1]] <= 1, f"{path.name} imports {name}"


def test_importing_the_package_and_asking_for_help_loads_no_tensorflow():
    for name in COMMANDS | {"__init__", "config", "command_line", "console"}:
        tree = ast.parse((ROOT / "clmr_tf" / f"{name}.py").read_text(encoding="utf-8"))
        names = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {module for module in names if module.split(".")[0] in ("tensorflow", "keras")}
        rooms = {module.split(".")[1] for module in names if module.startswith("clmr_tf.")}
        assert all(ROW_OF[room] == 0 for room in rooms), f"{name} loads {rooms} before its arguments are read"
