"""The command line, `topcoat`. For a person's terminal: it decides nothing about jobs and never imports torch."""
