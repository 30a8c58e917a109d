"""stub"""


async def main(given):
    return 0
