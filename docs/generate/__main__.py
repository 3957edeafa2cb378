"""Writes what of the pages is generated: `python -m docs.generate`, or `make pages`."""

from docs.generate.pages import PAGES, ROOT, rendered


def main() -> None:
    """Writes the pages that are not what they should be, and names them."""
    for page in PAGES:
        path, text = ROOT / page, rendered(page)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written anew: {page}")


if __name__ == "__main__":
    main()
