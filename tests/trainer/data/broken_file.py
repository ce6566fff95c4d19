"""Files that are broken as a whole: archives, encodings, arrays, tables, and data sets that do not fit together."""

from __future__ import annotations

import gzip
import json

from tests.trainer.data.broken import (
    CANARY,
    CSV,
    PROMPTS,
    ZIPPED,
    Broken,
    chat,
    flipped,
    good,
    jsonl,
    labelled,
    parquet,
)

FILES: tuple[Broken, ...] = (
    # The file as a whole
    Broken("empty.jsonl", b"", ("the file has no rows",), "at least one row"),
    Broken("blank.jsonl", b"\n\n  \n", ("the file has no rows",), "at least one row"),
    Broken("only_bom.jsonl", b"\xef\xbb\xbf", ("the file has no rows",), "at least one row"),
    Broken("notes.txt", jsonl(*good()), ("ending says nothing of its type",), "name it .jsonl"),
    Broken("utf16.jsonl", jsonl(*good()).decode().encode("utf-16"), ("the file is UTF-16",), "iconv"),
    Broken("archive.jsonl", b"PK\x03\x04" + CANARY.encode(), ("a ZIP archive or a spreadsheet",), "export it as CSV"),
    Broken("gzip_unnamed.jsonl", ZIPPED, ("gzip under another ending",), ".jsonl.gz"),
    Broken("parquet_unnamed.jsonl", parquet(good()), ("Parquet under another ending",), ".parquet"),
    Broken("truncated.jsonl.gz", ZIPPED[: len(ZIPPED) // 2], ("gzip data ends too early",), "gzip -t"),
    Broken("damaged.jsonl.gz", flipped(ZIPPED, len(ZIPPED) // 2), ("gzip data", "damaged"), "gzip -t"),
    Broken("not_gzip.jsonl.gz", jsonl(*good()), ("is not gzip",), "gzip -t"),
    Broken("truncated.parquet", parquet(good())[:-200], ("not a whole Parquet file", "before its first row"), "again"),
    Broken("head_only.parquet", b"PAR1" + CANARY.encode(), ("not a whole Parquet file",), "again"),
    Broken("empty.parquet", b"", ("not a whole Parquet file",), "again"),
    Broken("zipped.parquet.gz", gzip.compress(parquet(good())), ("Parquet is compressed already",), "gunzip"),
    # JSON arrays
    Broken("lines.json", jsonl(*good()), ("starts with an object",), "name it .jsonl"),
    Broken("cut.json", json.dumps(good()).encode()[:-40], ("row 30", "ends too early"), "JSON library", row=30),
    Broken("comma.json", json.dumps(good()).encode()[:-1] + b",]", ("comma stands after the last row (30)",), "comma"),
    Broken("two.json", json.dumps(good()).encode() + b"[]", ("text stands after the array's end",), "one array"),
    Broken("open.json", json.dumps(good()).encode()[:-1], ("ends within the array, after row 30",), "again"),
    Broken(
        "latin1.json", json.dumps([chat("é" + CANARY)], ensure_ascii=False).encode("latin-1"), ("not UTF-8",), "iconv"
    ),
    Broken("scalar.json", b'"' + CANARY.encode() + b'"', ("does not start with '['",), "array of objects"),
    # Tables
    Broken(
        "semicolon.csv",
        CSV.replace(b'",', b'";').replace(b"text,", b"text;"),
        ("row 1: the header has one column", "semicolon"),
        "comma",
        1,
    ),
    Broken("tab.csv", b"text\tlabel\n" + CANARY.encode() + b"\ta\n", ("separator seems to be the tab",), ".tsv", 1),
    Broken("comma.tsv", CSV, ("separator seems to be the comma, not the tab",), "tab", 1),
    Broken(
        "fields.csv", CSV + f"{CANARY},a,b\n".encode(), ("row 32: 3 fields where the header has 2",), "quote fields", 32
    ),
    Broken(
        "quote.csv", CSV + f'"{CANARY},a\nb,c\n'.encode(), ("row 32", "quotes do not match"), "double each quote", 32
    ),
    Broken(
        "latin1.csv", CSV + CANARY.encode() + b"\xe9,a\n", ("row 32: not UTF-8 at byte 40 of the row",), "UTF-8", 32
    ),
    Broken("nul.csv", CSV + CANARY.encode() + b"\x00,a\n", ("row 32: a NUL character",), "NUL", 32),
    Broken(
        "header_twice.csv",
        CSV.replace(b"text,label", b"text,text"),
        ("row 1: the header names a column twice",),
        "own name",
        1,
    ),
    Broken(
        "header_gap.csv",
        CSV.replace(b"text,label", b"text,"),
        ("row 1: the header has a column without a name",),
        "name every",
        1,
    ),
    Broken(
        "headless.csv",
        b"".join(CSV.splitlines(keepends=True)[1:]),
        ("no known shape", "do not look like names"),
        "dataset.columns",
    ),
    Broken("header_only.csv", b"text,label\n", ("the file has no rows",), "at least one row"),
    Broken(
        "bytes.parquet",
        parquet([{"text": CANARY.encode(), "label": "a"}] * 30),
        ("row 1: the field text must be text",),
        "type",
        1,
    ),
    # The data set as a whole
    Broken("few.jsonl", jsonl(*good(12)), ("too few rows", "12 usable, distinct rows"), "add rows"),
    Broken("repeats.jsonl", jsonl(*[chat()] * 500), ("too few rows", "1 usable, distinct rows"), "add rows"),
    Broken(
        "one_group.jsonl",
        jsonl(*[{**row, "claim": CANARY} for row in good(60)]),
        ("all 60 rows have one group",),
        "groupBy",
        spec={"holdout": {"groupBy": "claim", "minSamples": 10}},
    ),
    Broken(
        "no_group.jsonl",
        jsonl(*good(60)),
        ("row 1: the group column claim is missing",),
        "groupBy",
        1,
        {"holdout": {"groupBy": "claim", "minSamples": 10}},
    ),
    Broken(
        "overlap.jsonl",
        jsonl(*good(60)),
        ("2 of 3 held-out rows stand in the training set", "row 1 is row 5 of the training file"),
        "remove these rows",
        1,
        {},
        jsonl(good(60)[4], good(60)[9], chat("new " + CANARY)),
    ),
    Broken(
        "new_label.jsonl",
        jsonl(*labelled(60, "a", "b")),
        ("1 of 2 rows", "row 2: its label never occurs in training"),
        "training rows of that label",
        2,
        {},
        jsonl({"text": "n " + CANARY, "label": "a"}, {"text": "m " + CANARY, "label": "c"}),
    ),
    Broken(
        "other_shape.jsonl",
        jsonl(*good(60)),
        ("has the shape PromptCompletion where the data set has Chat",),
        "one shape",
        1,
        {},
        jsonl(*PROMPTS),
    ),
)
