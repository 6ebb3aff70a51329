"""Neuroevolution for fine-tuning pretrained networks: the trainable part as rows of a matrix, evolved in batches."""

__version__ = "0.1.0"
