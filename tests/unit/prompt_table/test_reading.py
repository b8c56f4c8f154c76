"""Prompt tables: everything wrong is said at once, with its place, before anything is paid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from musicapi_provider.api.bodies import check_body
from musicapi_provider.exceptions import MusicAPIPromptTableError, Spent
from musicapi_provider.prompt_table import PromptRow, parse_prompt_table, read_prompt_table
from tests.conftest import PROJECT

BOM = b"\xef\xbb\xbf"


def parse(text: str, name: str = "songs.csv", *, skip_invalid: bool = False) -> list[PromptRow]:
    """Check a table given as text."""
    return parse_prompt_table(text.encode(), name=name, skip_invalid=skip_invalid)


def problems_of(text: str, name: str = "songs.csv") -> tuple[str, ...]:
    """Return what a refused table is told."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse(text, name)
    return raised.value.problems


def table(*rows: str, header: str = "prompt_id,prompt,style_weight,custom_mode") -> str:
    """Return a CSV table."""
    return "\n".join([header, *rows]) + "\n"


# -- reading ------------------------------------------------------------------------------------------------


def test_shipped_table_is_valid() -> None:
    """The example's nine rows can be bought as they are."""
    path = PROJECT / "include" / "prompts" / "evening_radio.csv"
    rows = read_prompt_table(ObjectStoragePath(path.as_uri()))

    assert len(rows) == 9
    assert len({row.prompt_id for row in rows}) == 9
    assert all(check_body(row.body) == [] for row in rows)
    assert [row.line for row in rows[:4]] == [2, 3, 4, 10]


def test_rows_are_complete_bodies_in_order() -> None:
    """Cells get their kind, empty cells are not sent, defaults are added."""
    rows = parse(table("b,la la,0.5,true", "a,lo lo,,"))

    assert rows == [
        PromptRow(
            "b",
            {
                **{"task_type": "create_music", "prompt": "la la", "style_weight": 0.5},
                **{"custom_mode": True, "mv": "sonic-v5"},
            },
            2,
        ),
        PromptRow(
            "a", {"task_type": "create_music", "prompt": "lo lo", "mv": "sonic-v5", "custom_mode": True}, 3
        ),
    ]


def test_row_as_dict_is_what_goes_to_xcom() -> None:
    """Name and body, nothing else, and JSON takes it."""
    (row,) = parse(table("a,la,,"))

    assert {"prompt_id": "a", "body": row.body} == json.loads(json.dumps(row.as_dict()))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The error says where the table should be and what to change."""
    path = ObjectStoragePath((tmp_path / "nowhere.csv").as_uri())
    with pytest.raises(MusicAPIPromptTableError) as raised:
        read_prompt_table(path)

    assert str(path) in str(raised.value)
    assert "correct the path" in raised.value.next_step


def test_folder_is_refused_like_a_missing_file(tmp_path: Path) -> None:
    """A path that stops too early is a path to correct."""
    path = ObjectStoragePath(tmp_path.as_uri())
    with pytest.raises(MusicAPIPromptTableError, match="There is no prompt table at"):
        read_prompt_table(path)


def test_errors_name_the_file_as_it_was_given(tmp_path: Path) -> None:
    """A problem's place can be pasted into an editor."""
    (tmp_path / "songs.csv").write_text(table("a,,,"))
    path = ObjectStoragePath((tmp_path / "songs.csv").as_uri())
    with pytest.raises(MusicAPIPromptTableError) as raised:
        read_prompt_table(path)

    assert raised.value.problems[0].startswith(f"{path}:2:2: prompt: ")


@pytest.mark.parametrize("skip_invalid", [False, True])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param("", "songs.csv is empty", id="no-bytes"),
        pytest.param("\n \n,,\n", "songs.csv is empty", id="blank-lines"),
        pytest.param("prompt_id,prompt\n", "songs.csv has no rows", id="header-only"),
        pytest.param("prompt_id,prompt\n\n , \n", "songs.csv has no rows", id="header-and-blank-lines"),
    ],
)
def test_table_without_rows_is_refused(content: str, text: str, skip_invalid: bool) -> None:
    """Buying nothing without a word would hide a broken export."""
    with pytest.raises(MusicAPIPromptTableError, match=text):
        parse(content, skip_invalid=skip_invalid)


@pytest.mark.parametrize("name", ["songs.jsonl", "songs.ndjson"])
def test_json_lines_without_rows_are_refused(name: str) -> None:
    """The same holds for JSON Lines."""
    with pytest.raises(MusicAPIPromptTableError, match="has no rows"):
        parse("\n\n", name)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(BOM + b"prompt_id,prompt\na,la\n", id="bom"),
        pytest.param(b"prompt_id,prompt\r\na,la\r\n", id="windows-lines"),
        pytest.param(b"prompt_id,prompt\na,la", id="no-last-newline"),
        pytest.param(b" prompt_id , prompt\na,la\n", id="blanks-in-the-header"),
        pytest.param(b"\n\nprompt_id,prompt\n\na,la\n\n", id="blank-lines"),
        pytest.param(b'"prompt_id","prompt"\n"a","la"\n', id="quotes"),
    ],
)
def test_spreadsheet_habits_are_tolerated(content: bytes) -> None:
    """What spreadsheets add does not change the rows."""
    (row,) = parse_prompt_table(content, name="songs.csv")

    assert (row.prompt_id, row.body["prompt"]) == ("a", "la")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ds }}",
        "{% raw %}{{ conn.musicapi_default.password }}",
        '"quoted", and: $HOME `id`',
        "=1+1",
        "Größe 音楽 🎵",
        " blanks around ",
        "one\r\ntwo\n\nthree",
    ],
)
@pytest.mark.parametrize("name", ["songs.csv", "songs.jsonl"])
def test_text_is_data(text: str, name: str) -> None:
    """No text is rendered, trimmed or changed."""
    if name == "songs.csv":
        quoted = text.replace('"', '""')
        content = f'prompt_id,prompt\na,"{quoted}"\n'
    else:
        content = json.dumps({"prompt_id": "a", "prompt": text}, ensure_ascii=False)

    assert [text] == [row.body["prompt"] for row in parse(content, name)]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        pytest.param(b"prompt_id,prompt\na,la\nb,caf\xe9\n", "songs.csv:3: byte 0xe9", id="latin-1"),
        pytest.param(b"\xff\xfep\x00", "songs.csv:1: byte 0xff", id="utf-16"),
        pytest.param(BOM + b"prompt_id,prompt\na,\xff\n", "songs.csv:2: byte 0xff", id="after-a-bom"),
        pytest.param(BOM + b"prompt_id,prompt\n\xff,la\n", "songs.csv:2: byte 0xff", id="line-start-and-bom"),
    ],
)
def test_other_encodings_are_refused_with_line_and_byte(content: bytes, place: str) -> None:
    """The error says where the first foreign byte is and how to save the table."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse_prompt_table(content, name="songs.csv", skip_invalid=True)

    assert place in str(raised.value)
    assert "UTF-8" in raised.value.next_step


# -- the header ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_invalid", [False, True])
@pytest.mark.parametrize(
    ("header", "problems"),
    [
        pytest.param(
            "prompt,title",
            ["songs.csv:1: has no column 'prompt_id', which names each row"],
            id="no-prompt-id",
        ),
        pytest.param(
            "prompt_id,titel",
            ["songs.csv:1:2: unknown column 'titel', did you mean 'title'?"],
            id="typo",
        ),
        pytest.param("prompt_id,zzzz", ["songs.csv:1:2: unknown column 'zzzz'"], id="unknown"),
        pytest.param("prompt_id,prompt,", ["songs.csv:1:3: unknown column ''"], id="trailing-comma"),
        pytest.param(
            "prompt_id,Prompt", ["songs.csv:1:2: unknown column 'Prompt', did you mean 'prompt'?"], id="case"
        ),
        pytest.param(
            "Prompt_ID;prompt",
            [
                "songs.csv:1:1: unknown column 'Prompt_ID;prompt'",
                "songs.csv:1: has no column 'prompt_id', which names each row",
            ],
            id="semicolons",
        ),
    ],
)
def test_header_problems_refuse_the_table_always(
    header: str, problems: list[str], skip_invalid: bool
) -> None:
    """Cells that would go nowhere refuse the table, even where bad rows are skipped."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse(f"{header}\na,b\n", skip_invalid=skip_invalid)

    assert len(problems) == len(raised.value.problems)
    assert all(
        said.startswith(problem) for said, problem in zip(raised.value.problems, problems, strict=True)
    )
    assert "columns may be: prompt_id, task_type" in raised.value.next_step


def test_duplicate_column_is_refused_once() -> None:
    """Nobody can know which of two cells counts."""
    (problem,) = problems_of("prompt_id,tags,prompt,tags\na,b,c,d\n")

    assert problem.startswith("songs.csv:1:")
    assert "'tags' stands there twice" in problem


def test_all_header_problems_are_said_at_once() -> None:
    """One round of corrections is enough."""
    assert len(problems_of("titel,zzzz,prompt,prompt\n")) == 4


def test_header_problem_has_the_header_line() -> None:
    """Blank lines before the header are lines, too."""
    (problem,) = problems_of("\n\nprompt_id,titel\na,b\n")

    assert problem.startswith("songs.csv:3:2: ")


def test_unreadable_header_is_not_called_empty() -> None:
    """An unclosed quote in the first line is named as such."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse('"prompt_id,prompt\na,la\n')

    assert "no readable CSV" in str(raised.value)
    assert "is empty" not in str(raised.value)


# -- rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        pytest.param(
            ",la,,", "songs.csv:2:1: prompt_id: is empty; each row needs a name of its own", id="empty-id"
        ),
        pytest.param("  ,la,,", "songs.csv:2:1: prompt_id: is empty", id="blank-id"),
        pytest.param(f"{'x' * 101},la,,", "songs.csv:2:1: prompt_id: must be up to 100", id="long-id"),
        pytest.param('"a\tb",la,,', "songs.csv:2:1: prompt_id: must be up to 100", id="unprintable-id"),
        pytest.param(
            "a,la,,perhaps",
            "songs.csv:2:4: custom_mode: must be true or false; got 'perhaps'",
            id="bad-boolean",
        ),
        pytest.param(
            "a,la,high,", "songs.csv:2:3: style_weight: must be a number; got 'high'", id="bad-number"
        ),
        pytest.param(
            "a,la,1.01,", "songs.csv:2:3: style_weight: must be from 0 to 1; got 1.01", id="out-of-range"
        ),
        pytest.param("a,la,nan,", "songs.csv:2:3: style_weight: must be from 0 to 1; got nan", id="nan"),
        pytest.param(
            f"a,{'x' * 5001},,", "songs.csv:2:2: prompt: may have 5000 characters at most", id="long-prompt"
        ),
        pytest.param("a,,,", "songs.csv:2:2: prompt: is required in custom mode", id="no-prompt"),
        pytest.param(
            "a,la,,false", "songs.csv:2: gpt_description_prompt: is required", id="problem-without-column"
        ),
        pytest.param("a,la", "songs.csv:2: has 2 cells; the header has 4 columns", id="too-few-cells"),
        pytest.param("a,la,,,x", "songs.csv:2: has 5 cells; the header has 4 columns", id="too-many-cells"),
        pytest.param('a,"la" x,,', "songs.csv:2: is no readable CSV: ", id="text-after-a-quote"),
        pytest.param('a,"la,,', "songs.csv:2: is no readable CSV: ", id="unclosed-quote"),
    ],
)
def test_bad_row_is_reported_with_its_place(row: str, problem: str) -> None:
    """File, line, column, rule and value of each problem."""
    (said,) = problems_of(table(row))

    assert said.startswith(problem)


def test_problem_says_that_nothing_was_bought() -> None:
    """The reader learns what it cost and that rows can be skipped."""
    with pytest.raises(MusicAPIPromptTableError) as raised:
        parse(table("a,,,"))

    assert "1 problem(s); nothing was bought" in str(raised.value)
    assert raised.value.spent is Spent.NOT_SPENT
    assert "skip_invalid=True" in raised.value.next_step


def test_duplicate_id_names_the_first_line() -> None:
    """The second of two rows is the bad one, and the first is shown."""
    (said,) = problems_of(table("a,la,,", "b,lo,,", " a ,lu,,"))

    assert said == "songs.csv:4:1: prompt_id: 'a' stands on line 2 already"


def test_longest_id_is_accepted() -> None:
    """A hundred characters of any script are a name."""
    (row,) = parse(table(f"{'音' * 100},la,,"))

    assert len(row.prompt_id) == 100


def test_row_with_quoted_newlines_is_reported_on_its_first_line() -> None:
    """Lyrics span lines; the place is where the row begins, also of the rows after it."""
    problems = problems_of(
        table('a,"one\ntwo\nthree",7,', 'b,"one\n\ntwo",,', "", "c,la,7,", '"d","x\ny",7,', "e,la")
    )

    assert [p.split(": ")[0] for p in problems] == [
        "songs.csv:2:3",
        "songs.csv:9:3",
        "songs.csv:10:3",
        "songs.csv:12",
    ]


def test_line_of_a_row_counts_the_lines_before_it() -> None:
    """A row remembers the line that it begins on."""
    rows = parse(table('a,"one\r\ntwo",,', "", "b,la,,"))

    assert [row.line for row in rows] == [2, 5]


def test_all_bad_rows_are_reported_at_once() -> None:
    """Everything wrong is in one error, in the order of the table."""
    problems = problems_of(table(",la,2,", "b,la,,", "b,,x,perhaps", "c,la", f"d,{'x' * 5001},2,"))

    assert [p.split(": ")[0].removeprefix("songs.csv:") for p in problems] == [
        *("2:1", "4:1", "4:3", "4:4", "5", "6:2", "6:3")
    ]


# -- skipping -----------------------------------------------------------------------------------------------


def test_skip_invalid_leaves_the_bad_rows_out() -> None:
    """The good rows can be bought."""
    content = table("a,la,,", ",la,,", "c,,,", "d,la,x,", "e,la", "f,la,,", "a,lo,,")

    assert [row.prompt_id for row in parse(content, skip_invalid=True)] == ["a", "f"]


def test_skip_invalid_of_bad_rows_alone_refuses_the_table(caplog: pytest.LogCaptureFixture) -> None:
    """All rows bad: nothing to buy, which is no success; each row is told."""
    with pytest.raises(MusicAPIPromptTableError, match="has no usable row"):
        parse(table(",la,,", "c,,,"), skip_invalid=True)

    assert "Left out: songs.csv:2:1: prompt_id: is empty" in caplog.text
    assert "Left out: songs.csv:3:2: prompt: is required" in caplog.text


def test_skip_invalid_says_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    """A row that is left out is told, with its place; nobody would miss it otherwise."""
    parse(table("a,la,,", "b,la,7,", "c,,x,"), skip_invalid=True)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert warnings == [
        "Left out: songs.csv:3:3: style_weight: must be from 0 to 1; got 7.0",
        "Left out: songs.csv:4:3: style_weight: must be a number; got 'x'",
    ]


def test_skip_invalid_does_not_lose_the_rest_of_a_broken_file() -> None:
    """After a broken quote no row can be read, so it is the table that is bad, not a row."""
    content = table("a,la,,", 'b,"la" x,,', "c,la,,")
    with pytest.raises(MusicAPIPromptTableError, match="no readable CSV"):
        parse(content, skip_invalid=True)


def test_row_after_a_skipped_namesake_is_left_out() -> None:
    """A bad row still takes its name: the second row of that name is a duplicate, not a replacement."""
    rows = parse(table("a,,,", "a,la,,", "b,la,,"), skip_invalid=True)

    assert [row.prompt_id for row in rows] == ["b"]


# -- JSON Lines ---------------------------------------------------------------------------------------------


def lines(*rows: Any) -> str:
    """Return JSON Lines."""
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_json_lines_are_rows() -> None:
    """Typed values, texts of values and nulls all work; blank lines are passed over."""
    rows = parse(
        lines(
            {"prompt_id": "a", "prompt": "la\nla", "style_weight": 0.5, "custom_mode": True},
            "",
            {"prompt_id": 7, "prompt": "la", "style_weight": "0.5", "custom_mode": "yes", "title": None},
        ),
        "songs.jsonl",
    )

    assert [(row.prompt_id, row.line) for row in rows] == [("a", 1), ("7", 3)]
    assert all((row.body["style_weight"], row.body["custom_mode"]) == (0.5, True) for row in rows)
    assert "title" not in rows[1].body


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param('{"prompt_id": "a", prompt}', "songs.jsonl:1:20: is no JSON: ", id="no-json"),
        pytest.param("[1]", "songs.jsonl:1: is no JSON object", id="no-object"),
        pytest.param("null", "songs.jsonl:1: is no JSON object", id="null"),
        pytest.param('{"prompt": "la"}', "songs.jsonl:1: prompt_id: is empty", id="no-id"),
        pytest.param(
            '{"prompt_id": null, "prompt": "la"}', "songs.jsonl:1: prompt_id: is empty", id="null-id"
        ),
        pytest.param(
            '{"prompt_id": "a", "titel": "x"}',
            "songs.jsonl:1: unknown column 'titel', did you mean 'title'?",
            id="unknown-column",
        ),
        pytest.param(
            '{"prompt_id": "a", "prompt": ["la"]}',
            "songs.jsonl:1: prompt: must be text; got ['la']",
            id="list",
        ),
        pytest.param(
            '{"prompt_id": "a", "prompt": "la", "tags": ["x"]}',
            "songs.jsonl:1: tags: must be text, comma separated; got ['x']",
            id="list-of-tags",
        ),
        pytest.param(
            '{"prompt_id": "a", "prompt": "la", "style_weight": NaN}',
            "songs.jsonl:1: style_weight: must be from 0 to 1; got nan",
            id="nan",
        ),
        pytest.param(
            '{"prompt_id": "a", "prompt": "la", "make_instrumental": 1}',
            "songs.jsonl:1: make_instrumental: must be true or false; got 1",
            id="number-as-boolean",
        ),
        pytest.param(
            f'{{"prompt_id": "a", "prompt": "la", "duration": {10**400}}}',
            "songs.jsonl:1: duration: must be",
            id="beyond-float",
        ),
    ],
)
def test_bad_json_line_is_reported_with_its_line(line: str, problem: str) -> None:
    """File, line and rule; JSON Lines have no columns, except for syntax."""
    (said,) = problems_of(line, "songs.jsonl")

    assert said.startswith(problem)


@pytest.mark.parametrize("name", ["songs.jsonl", "SONGS.JSONL", "Songs.JsonL", "songs.NDJSON"])
def test_json_lines_are_known_by_any_spelling_of_their_ending(name: str) -> None:
    """Some systems write endings in capitals."""
    assert [row.prompt_id for row in parse(lines({"prompt_id": "a", "prompt": "la"}), name)] == ["a"]


def test_skip_invalid_leaves_bad_json_lines_out() -> None:
    """Each JSON line stands for itself, so even a broken one can be skipped."""
    content = lines({"prompt_id": "a", "prompt": "la"}, "{", {"prompt_id": "c", "prompt": "la"})

    assert [row.prompt_id for row in parse(content, "songs.jsonl", skip_invalid=True)] == ["a", "c"]
