"""Files in which single rows are broken: JSON, shapes, turns."""

from __future__ import annotations

from tests.trainer.data.broken import CANARY, PROMPTS, Broken, among, chat, good, jsonl, labelled, turns

FILES: tuple[Broken, ...] = (
    # Single rows of JSONL
    Broken("bad_json.jsonl", among(b'{"messages": ' + CANARY.encode()), ("row 7: not valid JSON",), "json.dumps", 7),
    Broken(
        "two_lines.jsonl", among(b'{"messages":\n[]}'), ("2 of 31", "row 7: not valid JSON", "row 8"), "one line", 7
    ),
    Broken("array_row.jsonl", among([CANARY]), ("row 7: a JSON array stands where an object should",), "object", 7),
    Broken("nan.jsonl", among(b'{"prompt": NaN, "completion": "a"}'), ("row 7: NaN",), "JSON object", 7),
    Broken("deep.jsonl", among(b"[" * 200_000), ("row 7: nested too deeply",), "one JSON object", 7),
    Broken("long_number.jsonl", among(b'{"a": ' + b"9" * 5000 + b"}"), ("row 7: a number is too long",), "JSON", 7),
    Broken("twice.jsonl", among(b'{"prompt": "a", "prompt": "b"}'), ("row 7: a key stands twice",), "each key once", 7),
    Broken("nul.jsonl", among(b'{"a": "\x00"}'), ("row 7: a NUL character stands at byte 7",), "remove the NUL", 7),
    Broken("escaped_nul.jsonl", among(chat("a\x00b")), ("row 7: the text holds an escaped NUL",), "remove the NUL", 7),
    Broken(
        "surrogate.jsonl", among(chat("\ud83d " + CANARY)), ("row 7: the text holds half of a surrogate",), "UTF-8", 7
    ),
    Broken("latin1.jsonl", among(CANARY.encode() + b"\xe9"), ("row 7: not UTF-8 at byte 40 of the row",), "UTF-8", 7),
    Broken("two_megabytes.jsonl", among(chat("x" * 2_000_000)), ("row 7: the row has 2,000,", "1,048,576"), "1 MiB", 7),
    Broken(
        "one_in_10000.jsonl",
        among(b"{" + CANARY.encode(), 6789, 10_000),
        ("1 of 10,000 rows", "row 6789"),
        "JSON",
        6789,
    ),
    Broken(
        "many.jsonl",
        jsonl(*good(10), *[turns(("user", CANARY))] * 20),
        ("20 of 30 rows cannot be used", "row 11:", "row 15:", "and 15 more"),
        "end the row with the assistant turn",
        11,
    ),
    # Shapes
    Broken(
        "unknown.jsonl",
        jsonl({"frage": CANARY, "antwort": "b"}),
        ("no known shape", "frage, antwort"),
        "dataset.columns",
    ),
    Broken(
        "mixed.jsonl",
        among(PROMPTS[0]),
        ("row 7: has the shape PromptCompletion where the data set has Chat",),
        "one shape",
        7,
    ),
    Broken(
        "wrong_format.jsonl",
        jsonl(*PROMPTS),
        ("has the shape PromptCompletion where", "Chat"),
        "one shape",
        1,
        {"format": "Chat"},
    ),
    Broken(
        "no_column.jsonl",
        jsonl(*PROMPTS),
        ("the field frage is missing",),
        "dataset.columns",
        1,
        {"format": "PromptCompletion", "columns": {"prompt": "frage"}},
    ),
    Broken("null.jsonl", among({"messages": None}), ("row 7: the field messages is missing or null",), "fill in", 7),
    Broken(
        "no_completion.jsonl",
        jsonl(*PROMPTS, {"prompt": CANARY}),
        ("row 31: the field completion is missing",),
        "fill in",
        31,
    ),
    Broken(
        "half_list.jsonl",
        jsonl(*PROMPTS, {"prompt": [{"role": "user", "content": CANARY}], "completion": "b"}),
        ("row 31: prompt and completion must both",),
        "type",
        31,
    ),
    Broken(
        "number.jsonl",
        jsonl(*PROMPTS, {"prompt": 5, "completion": CANARY}),
        ("row 31: the field prompt must be text",),
        "type",
        31,
    ),
    Broken(
        "object_label.jsonl",
        jsonl(*labelled(30, "a", "b"), {"text": CANARY, "label": {"a": 1}}),
        ("row 31: the label",),
        "type",
        31,
    ),
    Broken(
        "empty_label.jsonl",
        jsonl(*labelled(30, "a", "b"), {"text": CANARY, "label": " "}),
        ("row 31: the label label is empty",),
        "fill in",
        31,
    ),
    # Turns
    Broken(
        "empty_turn.jsonl",
        among(turns(("user", CANARY), ("assistant", " \n"))),
        ("row 7: turn 2 (assistant) is empty",),
        "fill in",
        7,
    ),
    Broken(
        "null_turn.jsonl",
        among(turns(("user", CANARY), ("assistant", None))),
        ("row 7: turn 2 has no content",),
        "fill in",
        7,
    ),
    Broken(
        "no_answer.jsonl",
        among(turns(("user", CANARY), ("assistant", "a"), ("user", "b"))),
        ("row 7: the last turn (user) is not the assistant's",),
        "end the row",
        7,
    ),
    Broken("no_assistant.jsonl", among(turns(("user", CANARY))), ("row 7: no assistant turn",), "assistant turn", 7),
    Broken("no_user.jsonl", among(turns(("assistant", CANARY))), ("row 7: no user turn",), "user turn", 7),
    Broken("no_turns.jsonl", among({"messages": []}), ("row 7: messages is an empty list",), "assistant turn", 7),
    Broken(
        "role.jsonl",
        among(turns(("client", CANARY), ("assistant", "a"))),
        ("row 7: turn 1 has a role that is not",),
        "roles",
        7,
    ),
    Broken("no_role.jsonl", among({"messages": [{"content": CANARY}]}), ("row 7: turn 1 has no role",), "roles", 7),
    Broken("string_turns.jsonl", among({"messages": [CANARY, "b"]}), ("row 7: turn 1 is not an object",), "type", 7),
    Broken(
        "system_late.jsonl",
        among(turns(("user", CANARY), ("system", "b"), ("assistant", "a"))),
        ("row 7: a system turn stands after the first turn",),
        "first",
        7,
    ),
    Broken(
        "tool_role.jsonl",
        among(turns(("user", CANARY), ("tool", "b"), ("assistant", "a"))),
        ("row 7: turn 2 has the role tool",),
        "tools",
        7,
    ),
    Broken(
        "tools.jsonl", among(chat(tools=[{"name": CANARY}])), ("row 7: the row has tools",), "remove rows with tools", 7
    ),
    Broken(
        "tool_calls.jsonl",
        among(
            {
                "messages": [
                    {"role": "user", "content": CANARY},
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                ]
            }
        ),
        ("row 7: turn 2 has tool_calls",),
        "tools",
        7,
    ),
    Broken(
        "image.jsonl",
        among(turns(("user", [{"type": "image_url", "image_url": {"url": CANARY}}]), ("assistant", "a"))),
        ("row 7: turn 1 has parts that are not text",),
        "text only",
        7,
    ),
    Broken(
        "weight.jsonl",
        among(
            {"messages": [{"role": "user", "content": CANARY}, {"role": "assistant", "content": "a", "weight": 0.5}]}
        ),
        ("row 7: the weight of turn 2 is not 0 or 1",),
        "0 (not learnt)",
        7,
    ),
    Broken(
        "all_masked.jsonl",
        jsonl(*[turns(("user", f"{CANARY} {n}"), ("assistant", "a"), weight=0) for n in range(30)]),
        ("30 of 30 rows", "row 1: every assistant turn has weight 0", "and 25 more"),
        "weight 1",
        1,
    ),
    Broken(
        "control_token.jsonl",
        among(chat(CANARY + "<|im_end|>")),
        ("row 7: turn 1 (user) holds a control token",),
        "control tokens",
        7,
    ),
    Broken("too_long.jsonl", among(chat(CANARY * 100)), ("row 7: the row has", "2,048 are allowed"), "onTooLong", 7),
)
