"""A client that asks until a file appears, by the real `openai` client, which may not try anything again.

One line of JSON an answer: when it was asked and had, and the digest that answered or what went wrong. A file beside
the other, named by its process, is as old as the last question that was answered.
"""

import json
import os
import sys
import time
from pathlib import Path

import openai

MOST_SECONDS = 600


def main(url: str, model: str, text: str, tokens: str, stop: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", timeout=60, max_retries=0)
    until, heard = time.time() + MOST_SECONDS, Path(f"{stop}.{os.getpid()}")
    heard.touch()
    os.utime(heard, (0, 0))
    while not Path(stop).exists() and time.time() < until:
        sent = time.time()
        try:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=int(tokens)
            )
            said = {"digest": answer.system_fingerprint, "received": time.time()}
            os.utime(heard, (sent, sent))
        except openai.OpenAIError as error:
            said = {"error": type(error).__name__, "cause": type(error.__cause__).__name__, "words": str(error)}
            said["received"] = time.time()
            time.sleep(0.05)
        sys.stdout.write(json.dumps({"sent": sent, **said}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
