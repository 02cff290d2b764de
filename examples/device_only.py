"""Read a mail that may not leave the device. Mail is labelled by itself; the label follows into the answer."""

from pathlib import Path

import hybrid

MAIL = Path(__file__).parent / "data" / "doctor.eml"
SUMMARISE = (
    "Provide a concise, objective summary of the input text in up to three sentences, focusing on key actions and "
    "intentions without using second or third person pronouns."
)


def main() -> None:
    mail = hybrid.Source.file(MAIL)
    with hybrid.Client(policy="only_on_device") as client:
        reply = client.ask("", sources=[mail], system=SUMMARISE, max_tokens=80)
    print(reply)
    print(f"made from: {', '.join(source.label for source in reply.sources)}")
    print(f"this answer may go as far as: {reply.max_route}")


if __name__ == "__main__":
    main()
