"""What a model answers and how good that is: prompts in, answers and numbers out. Knows no rule and no version."""
