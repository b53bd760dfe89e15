"""Start the command; member processes import this file too, and must get nothing from it."""

if __name__ == "__main__":
    from benchmarks.command import main

    main()
