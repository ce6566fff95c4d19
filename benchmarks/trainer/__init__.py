"""How long fine-tuning of last layers takes: ours beside Hugging Face's Trainer with PEFT, and TRL's SFTTrainer."""
