"""What people read about a run: report.html and the model card. Pure presentation: judges nothing, loads no model."""
