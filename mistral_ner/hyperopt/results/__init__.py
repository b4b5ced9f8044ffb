"""The results of a search: summary, final trainings, best config, model card, report."""
