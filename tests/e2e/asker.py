"""A client that asks until a file appears, by the real `openai` client, which may not try anything again.

One line of JSON an answer: when it was asked and had, and the digest that answered or what went wrong. After the first
one it makes a file beside the other, named by its process.
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
    until = time.time() + MOST_SECONDS
    while not Path(stop).exists() and time.time() < until:
        sent = time.time()
        try:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=int(tokens)
            )
            said = {"digest": answer.system_fingerprint}
        except openai.OpenAIError as error:
            said = {"error": type(error).__name__, "cause": type(error.__cause__).__name__, "words": str(error)}
            time.sleep(0.05)
        Path(f"{stop}.{os.getpid()}").touch()
        sys.stdout.write(json.dumps({"sent": sent, "received": time.time(), **said}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
