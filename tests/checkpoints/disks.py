"""What a small disk is filled with, for tests of what a run does then."""


def fill(path):
    """Writes until the disk is full."""
    try:
        with path.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
