"""Columns: Parquet or lines of JSON in, Parquet out, by Ray Data on the engines that Serve runs."""
