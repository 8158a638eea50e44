"""What is written of experiments: text, tables, figures."""
