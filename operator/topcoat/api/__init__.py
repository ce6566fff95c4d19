"""What a user writes and what the two sides tell each other. Pydantic only; no file, no clock, no network.

Start with finetunejob.py. Every docstring here becomes the text of the CRD and of the reference page.
"""
