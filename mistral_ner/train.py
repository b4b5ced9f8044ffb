"""The one objective, under its public name: ``from mistral_ner.train import fit``."""

from mistral_ner.training.fit import OutOfMemoryError, Report, TrainingError, fit, fit_together

__all__ = ["OutOfMemoryError", "Report", "TrainingError", "fit", "fit_together"]
