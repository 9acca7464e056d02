"""The command `trunkline`, and `python -m app`."""


def main() -> None:
    from app.cli.root import app

    app(prog_name="trunkline")


if __name__ == "__main__":
    main()
