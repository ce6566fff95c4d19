"""The trainer: everything that touches a tensor, a token or a file on the volume.

Never imports kopf or kubernetes; learns what to do from a run file and answers with a report (topcoat.api).
"""
