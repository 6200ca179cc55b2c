"""The terminating transforms: they answer, most of them by asking a database."""
