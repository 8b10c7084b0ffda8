import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TOOL = ROOT / "tools" / "paper_tables.py"


def test_table_1_comes_out_of_the_stacks():
    command = [sys.executable, str(TOOL), "--table", "1", "--json"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = json.loads(said)["table1"]
    assert [row["paper"]["rank"] for row in rows] == [4, 8, 16, 32]
    for row in rows:
        for name in ("static_lors", "static_dense", "adaptive_lors", "adaptive_dense"):
            # The paper rounds to two digits, 2.4549 up to 2.46.
            assert row["ours"][name] == pytest.approx(row["paper"][name], abs=0.0052), (row["row"], name)


def test_a_row_in_each_form():
    spec = importlib.util.spec_from_file_location("paper_tables", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    paper = json.loads((tool.CONFIGS / "paper_tables.json").read_text())
    paper = {"table8": {**paper["table8"], "rows": paper["table8"]["rows"][:1]}}
    counted = tool.count(paper, ["table8"])
    (row,) = counted["table8"]
    assert row["row"] == 0 and row["config"] == "ablations/table8_stages3"
    assert round(row["ours"]["decoder_params_m"]) == row["paper"]["decoder_params_m"] == 28
    assert "28.184" in tool.as_text(counted)
    markdown = tool.as_markdown(paper, counted)
    assert "[table8_stages3](configs/ablations/table8_stages3.py)" in markdown
    assert "--config-file configs/ablations/table8_stages3.py" in markdown
    assert markdown.count("not trained here |") == 1
