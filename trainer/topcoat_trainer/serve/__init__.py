"""The model server: one base model in memory, many tuned versions of it, OpenAI's protocol in front.

`process` puts the parts together. HTTP (`app`, `admin`) knows nothing of tensors; the engine knows nothing of HTTP,
aliases or tokens of clients; between them stands `engine.py`. Never imports kopf or kubernetes, nor `run`.
"""
