import pytest

from gptft.data.columns import RowError, detect_layout, read_row

ASKED = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind"}


def read(row, task="dialogue", **columns):
    return read_row(row, detect_layout(row, columns, task))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": [ASKED, SAID], "id": 1}, {}),
        ({"talk": [ASKED, SAID]}, {"messages": "talk"}),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, {}),
        ({"chat": [{"from": "user", "value": "Hi"}, SAID]}, {"conversations": "chat"}),
        ({"prompt": "Hi", "completion": "Hello"}, {}),
        ({"prompt": [ASKED], "completion": [SAID]}, {}),
        ({"question": "Hi", "answer": "Hello", "label": 3}, {}),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, {}),
        ({"q": "Hi", "a": "Hello", "text": "x"}, {"prompt": "q", "completion": "a"}),
        ({"q": "Hi", "output": "Hello"}, {"prompt": "q"}),
    ],
)
def test_dialogue_columns(row, columns):
    assert read(row, **columns) == ([ASKED, SAID], None)


def test_input_follows_the_instruction():
    messages, _ = read({"instruction": "Translate", "input": "chat", "output": "cat"})
    assert messages[0]["content"] == "Translate\nchat"


def test_system_column_comes_first_once():
    assert read({"prompt": "Hi", "completion": "Hello", "system": "Be kind"})[0] == [SYSTEM, ASKED, SAID]
    assert read({"messages": [SYSTEM, ASKED, SAID], "system": "Other"})[0] == [SYSTEM, ASKED, SAID]
    assert read({"messages": [ASKED, SAID], "system": None})[0] == [ASKED, SAID]


def test_pretraining_takes_text_before_messages():
    assert read({"text": "a", "messages": [SAID]}, "pretraining") == (None, "a")
    assert read({"messages": [SAID]}, "pretraining") == ([SAID], None)
    assert read({"text": "a", "messages": [SAID]}, "pretraining", messages="messages") == ([SAID], None)
    assert read({"body": "a", "text": "b"}, "pretraining", text="body") == (None, "a")
    assert read({"text": None}, "pretraining") == (None, "")


def test_undetected_columns_are_named_with_the_line_to_write():
    with pytest.raises(RowError) as error:
        read({"frage": "Hi", "antwort": "Hello"})
    assert str(error.value) == (
        "no columns that the task dialogue can use. Columns found: frage, antwort. Accepted: messages; conversations; "
        "prompt and completion; instruction and output; question and answer. If yours have other names, say so under "
        "`data:` in the recipe: columns: {prompt: YOUR_COLUMN, completion: YOUR_COLUMN} (or {messages: YOUR_COLUMN})"
    )
    with pytest.raises(RowError, match=r"Columns found: body\. .* columns: \{text: YOUR_COLUMN\}"):
        read({"body": "Hi"}, "pretraining")


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"q": 1}, {"prompt": "frage"}, "says prompt: frage, but there is no such column. Columns found: q."),
        ({"messages": []}, {}, "no turn of the assistant"),
        ({"messages": [ASKED]}, {}, "no turn of the assistant"),
        ({"messages": "Hi"}, {}, "messages must be a list of turns, found text"),
        ({"messages": ["Hi"]}, {}, "messages, turn 1 must be an object with role and content, found text"),
        ({"messages": [ASKED, {"role": "tool", "content": ""}]}, {}, "messages, turn 2: the role is 'tool'; expected"),
        ({"messages": [{"content": "Hi"}]}, {}, "turn 1: the role is None"),
        ({"messages": [{"role": "assistant"}]}, {}, "turn 1: the content must be text, found nothing"),
        ({"messages": [{"role": "user", "content": 7}]}, {}, "turn 1: the content must be text, found int 7"),
        ({"messages": [ASKED, SYSTEM, SAID]}, {}, "turn 2 is a system turn; only the first may be one"),
        ({"prompt": 3.5, "completion": "a"}, {}, "prompt must be text, found float 3.5"),
        ({"prompt": "a", "completion": {}}, {}, "completion must be text, found an object"),
        ({"prompt": [ASKED], "completion": "a"}, {}, "completion must be a list of turns, found text"),
        ({"text": "a", "messages": [SAID]}, {"text": "text"}, "no columns that the task dialogue can use"),
    ],
)
def test_bad_rows(row, columns, message):
    with pytest.raises(RowError) as error:
        read(row, **columns)
    assert message in str(error.value)


def test_a_later_row_without_the_column():
    layout = detect_layout(["prompt", "completion"], {}, "dialogue")
    with pytest.raises(RowError, match="the row has no completion; it has prompt, answer"):
        read_row({"prompt": "a", "answer": "b"}, layout)
