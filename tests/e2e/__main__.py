"""`make e2e`: the whole story with the demo's real model, on a cluster of its own. Prints the time of each chapter."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e import story
from tests.support.kube import cluster as clusters
from tests.support.kube import folder, leftover

RUN_SECONDS = {"smollm2": 1500, "tiny": 420}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.e2e", description="A company's whole way on a real cluster.")
    parser.add_argument("--model", choices=sorted(RUN_SECONDS), default="smollm2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times there, too")
    options = parser.parse_args()
    if why := clusters.missing(free_bytes=20 * 10**9):
        sys.stderr.write(f"No cluster here: {why}\n")
        return 1
    leftover.clean()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        found = clusters.Cluster.in_sandbox(folder.Owned.new("e2e"))
        told = story.Story(found, say=lambda text: print(text, flush=True))  # noqa: T201 - that is what it is for
        try:
            with told.chapter("start a cluster with one node"):
                clusters.prepare()
                found.start()
            told.install()
            tiny = story.tiny_material(root / "tiny")
            if options.model == "smollm2":
                with told.chapter("make the model and the data"):
                    material = story.demo_material(root / "demo")
                told.bring(material)
                story.live(told, material, RUN_SECONDS["smollm2"])
                told.put(tiny)
            else:
                told.bring(tiny)
                story.live(told, tiny, RUN_SECONDS["tiny"])
            story.live_on_two_nodes(told, tiny, RUN_SECONDS["tiny"])
        finally:
            found.stop()
    told.times["all"] = time.monotonic() - began
    told.say(f"{told.times['all']:7.1f} s  in all")
    if options.json:
        options.json.write_text(json.dumps(told.times, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
