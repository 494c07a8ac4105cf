"""`gatehouse usage`: what people see, what programs get, and what goes wrong."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatehouse.cli import app
from testkit.request_logs import record, refused, written

NAMES = "requests,errors,limited,prompt_tokens,completion_tokens,cached_tokens,cost_usd"
LATENCIES = "ttft_p50_ms,ttft_p95_ms,duration_p50_ms,duration_p95_ms"


def gatehouse(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration whose log directory holds two days, of two users."""
    logs = tmp_path / "logs"
    logs.mkdir()
    records = [record(), record(60, user_id="bob", prompt_tokens=7_000_000, cost_usd=1.4), refused(61, user_id="bob")]
    written(logs / "requests_2026-11-01.log.gz", records)
    written(logs / "requests_2026-11-02.log", [record(86400)], tail=b'{"time":"2026-11-02T1')
    file = tmp_path / "gatehouse.yaml"
    file.write_text(f"vllm: {{base_url: 'http://localhost:8100/v1'}}\nlogging: {{dir: '{logs}'}}\n")
    return str(file)


def test_people_get_a_table_with_a_total(config: str) -> None:
    result = gatehouse("usage", "-c", config)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0][:5] == ["user", "model", "requests", "errors", "limited"]
    assert [line[0] for line in lines[1:]] == ["bob", "alice", "total"]
    assert lines[1][1:8] == ["llama", "2", "0", "1", "7,000,000", "30", "8"]
    assert lines[3][1:8] == ["4", "0", "1", "7,000,024", "90", "24", "1.40"]


def test_lines_that_are_no_records_are_told_of(config: str) -> None:
    for form in ("table", "csv", "json"):
        result = gatehouse("usage", "-c", config, "--format", form)
        assert result.stderr.endswith("requests_2026-11-02.log: 1 line is no record, and skipped\n")


def test_programs_get_csv_without_a_total(config: str) -> None:
    result = gatehouse("usage", "-c", config, "--by", "day,user", "--format", "csv")
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0] == f"day,user,{NAMES},{LATENCIES}".split(",")
    assert [row[:9] for row in rows[1:]] == [
        ["2026-11-01", "bob", "2", "0", "1", "7000000", "30", "8", "1.400000"],
        ["2026-11-01", "alice", "1", "0", "0", "12", "30", "8", "0.000042"],
        ["2026-11-02", "alice", "1", "0", "0", "12", "30", "8", "0.000042"],
    ]


@pytest.mark.parametrize("how", [["--json"], ["--format", "json"]])
def test_programs_get_json_with_all_there_is_to_know(config: str, how: list[str]) -> None:
    said = json.loads(gatehouse("usage", "-c", config, "--by", "user", "--until", "2026-11-01", *how).stdout)
    assert (said["by"], said["since"], said["until"]) == (["user"], None, "2026-11-02T00:00:00+00:00")
    assert [(row["user"], row["requests"], row["cost_usd"]) for row in said["rows"]] == [
        ("bob", 2, 1.4),
        ("alice", 1, 0.000042),
    ]
    assert (said["total"]["requests"], said["total"]["cost_usd"]) == (3, 1.400042)
    assert list(said["skipped"].values()) == [1]


def test_periods_and_filters_narrow_it_down(config: str) -> None:
    def requests(*arguments: str) -> int:
        count: int = json.loads(gatehouse("usage", "-c", config, "--json", *arguments).stdout)["total"]["requests"]
        return count

    assert requests("--since", "2026-11-02") == 1
    assert requests("--since", "2026-11-01T12:01", "--until", "2026-11-01T12:01:01") == 1
    assert requests("--user", "alice") == 2
    assert requests("--user", "alice", "--user", "bob", "--team", "search", "--model", "llama", "--key", "k1") == 4
    assert requests("--key", "k2") == 0


def test_a_chart_has_a_bar_for_each_row(config: str) -> None:
    result = gatehouse("usage", "-c", config, "--by", "user", "--chart")
    bars = [line for line in result.stdout.splitlines() if "█" in line or line.strip().endswith(" 84")][-2:]
    assert [(bar.split()[0], bar.count("█"), bar.split()[-1]) for bar in bars] == [
        ("bob", 40, "7,000,030"),
        ("alice", 0, "84"),
    ]
    assert gatehouse("usage", "-c", config, "--chart", "--json").exit_code == 1


def test_rows_can_be_limited_and_the_total_is_of_all(config: str) -> None:
    said = json.loads(gatehouse("usage", "-c", config, "--by", "user", "--limit", "1", "--json").stdout)
    assert ([row["user"] for row in said["rows"]], said["total"]["requests"]) == (["bob"], 4)


def test_other_logs_need_no_configuration(tmp_path: Path) -> None:
    file = written(tmp_path / "saved.log", [record()])
    more = written(tmp_path / "more.log.gz", [record(1)])
    said = json.loads(gatehouse("usage", "--log", str(file), "--log", str(more), "--json").stdout)
    assert said["total"]["requests"] == 2


def test_what_clients_wrote_commands_no_terminal_and_no_spreadsheet(tmp_path: Path) -> None:
    models = ["\x1b]0;owned\x07", "[red]x[/red]", "=cmd|'/c calc'!A1", "-1+1", "a,b\nc"]
    file = written(tmp_path / "a.log", [record(i, model=model) for i, model in enumerate(models)])
    table = gatehouse("usage", "--log", str(file), "--by", "model", "--chart").stdout
    assert "\x1b" not in table
    assert "\x07" not in table
    assert "[red]x[/red]" in table
    sheet = gatehouse("usage", "--log", str(file), "--by", "model", "--format", "csv").stdout
    cells = [row[0] for row in csv.reader(io.StringIO(sheet))][1:]
    assert sorted(cells) == sorted([models[0], models[1], f"'{models[2]}", f"'{models[3]}", models[4]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "usr"], "usage is not summed by 'usr' (did you mean 'user'?)"),
        (["--by", "'; DROP"], "usage is not summed by ''; DROP' (there are user, team"),
        (["--sort", "money"], "rows are not sorted by 'money' (there are tokens, requests"),
        (["--since", "soon"], "'soon' is neither a day such as 2026-11-01"),
        (["--until", "2026-13-01"], "'2026-13-01' is neither a day"),
        (["--since", "999999w"], "'999999w' is neither a day"),
        (["--log", "gone.log"], "gone.log is not there"),
    ],
)
def test_what_can_not_be_answered_says_why(config: str, arguments: list[str], message: str) -> None:
    result = gatehouse("usage", "-c", config, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error {message}")


def test_a_gateway_that_never_ran_has_no_logs(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(f"vllm: {{base_url: 'http://localhost:8100/v1'}}\nlogging: {{dir: '{tmp_path}/none'}}\n")
    result = gatehouse("usage", "-c", str(file))
    assert (result.exit_code, result.stderr) == (
        1,
        f"error no request logs in {tmp_path}/none/ (requests_YYYY-MM-DD.log); name other logs\n",
    )


def test_a_bad_configuration_is_status_2(tmp_path: Path) -> None:
    assert gatehouse("usage", "-c", str(tmp_path / "none.yaml")).exit_code == 2
