"""Topcoat's API, planner and command line. Never imports torch, transformers or peft."""
