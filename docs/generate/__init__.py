"""What of the pages is generated. `make pages` writes it; tests/test_generated_pages.py finds what is not up to date."""
