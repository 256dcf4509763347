"""Inference with a trained model on all local devices: waveforms and files to embeddings."""

from asdjax.embedder.embedding import Embedder as Embedder
from asdjax.embedder.embedding import Pool as Pool
from asdjax.embedder.embedding import pool_tree as pool_tree
from asdjax.embedder.loading import digests as digests
from asdjax.embedder.loading import load as load
