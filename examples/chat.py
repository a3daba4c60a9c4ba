"""Several chats at once with one endpoint, through the `openai` package.

    python examples/chat.py --base-url http://localhost:8000/v1 --api-key token-abc123

Questions may follow as further words. OPENAI_BASE_URL and OPENAI_API_KEY say the same as the flags.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

QUESTIONS = [
    "What is a GPU good at?",
    "Why is the sky blue?",
    "Who was Ada Lovelace?",
    "How does a bicycle stay upright?",
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask several questions at once.")
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://localhost:8000/v1"))
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()

    client = OpenAI(base_url=options.base_url, api_key=options.api_key)
    model = client.models.list().data[0].id

    def ask(question: str) -> str:
        chat = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=options.max_tokens
        )
        return chat.choices[0].message.content or ""

    with ThreadPoolExecutor(options.threads) as threads:
        for question, answer in zip(options.questions, threads.map(ask, options.questions), strict=True):
            print(f"> {question}\n{answer}\n")


if __name__ == "__main__":
    main()
