"""The embedders and what they are made of; `registry` builds them."""
