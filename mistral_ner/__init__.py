"""Find and train the best LoRA fine-tuned NER tagger for a given budget."""

__version__ = "0.1.0"
