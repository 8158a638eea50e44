"""The checks run in processes of their own, one for each backend: see test_keras.py."""

collect_ignore = ["checks"]
