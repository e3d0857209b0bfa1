"""The tables of the benchmarks are made of the raw results, and of nothing else."""

from benchmarks.tables import BEGIN, END, HERE, README, page, with_tables

NO_SCRIPTS = (
    "__init__",
    "accelerator_measures",
    "accelerator_tables",
    "accelerator_tasks",
    "claims",
    "single_file",
    "turns",
    "suite_child",
    "suite_levels",
    "suite_results",
    "suite_status",
    "suite_store",
    "suite_tables",
    "suite_tasks",
)
"""Parts of scripts, or called by one."""


def test_the_tables_are_those_of_the_results() -> None:
    assert (HERE / "README.md").read_text() == page(), "run python -m benchmarks.tables"
    text = README.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text == with_tables(text), "run python -m benchmarks.tables"


def test_every_script_says_how_to_repeat_it() -> None:
    for script in HERE.glob("*.py"):
        if script.stem not in NO_SCRIPTS:
            assert f"python -m benchmarks.{script.stem}" in script.read_text(), script
