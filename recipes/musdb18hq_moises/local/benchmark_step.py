"""Time and memory of one training step, and where they go. Needs no data.

python local/benchmark_step.py [--conf local/conf.yml] [--any_key_of_it value]
"""
