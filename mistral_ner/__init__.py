"""Find and train the best LoRA fine-tuned NER tagger for a given budget."""

import logging

__version__ = "0.1.0"

# transformers and peft import bitsandbytes wherever it is installed, which then warns of a speed-up nobody asked for
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
