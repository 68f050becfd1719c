"""Reports from results: text, tables of the documentation, plots, and hours of a whole run."""
