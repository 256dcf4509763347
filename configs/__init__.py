"""Recipes: one YAML file each, installed with the package."""
