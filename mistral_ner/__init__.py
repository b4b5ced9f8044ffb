"""Find and train the best LoRA fine-tuned NER tagger for a given budget."""

import logging
import os

__version__ = "0.1.0"

# Before torch is loaded: OpenMP's threads otherwise wait by spinning, which makes a training many times slower as soon
# as another process wants the same cores. If they sleep at once, it costs more to wake them than a small batch gains by
# two threads (bench/spin.py). Processes that are started from here inherit it.
if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # some microseconds

# Before CUDA is used: batches of many lengths leave gaps between blocks of fixed size. torch's older name for the same
# variable goes first where somebody has set it.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

# bitsandbytes, where it is imported, warns of a speed-up that nobody asked for
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
if not os.environ.get("MISTRAL_NER_CACHE", "unset"):
    del os.environ["MISTRAL_NER_CACHE"]  # an empty name would mean the working directory
