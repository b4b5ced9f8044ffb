"""How much memory a training needs, computed from the model's config alone."""
