"""Files as sources: CSV, JSON, Parquet, Arrow, .npz and svmlight; read strictly, so that every error has its line."""
