"""Detokenizers give, to the letter, what the papers' own functions gave."""

import pytest

from pipeline.zeroshot.detokenizers import DETOKENIZERS, detokenized

# What the published functions printed.
GOLDEN = {
    "none": [(" as it is , \n", " as it is , \n"), ("", "")],
    "wikitext": [
        (" = A heading = \n", " = A heading =\n"),
        (" = = = 2000 – 2005 = = = \n", " === 2000 – 2005 ===\n"),
        ("", ""),
        (
            " He paid 1 @,@ 500 for a three @-@ year lease , i.e. 2 @.@ 5 % . \n",
            " He paid 1,500 for a three-year lease, i.e. 2.5 %.\n",
        ),
        (
            " The brothers ' song ( \" Go ! \" ) : it 's theirs ; who knows ? \n",
            " The brothers'song (\"Go!\"): it's theirs; who knows?\n",
        ),
        (" A dog 's life and the cat 's tail . \n", " A dog's life and the cat's tail.\n"),
        (" at 40 ° N and N 5 , [ sic ] { x } \n", " at 40°N and 1 5, [sic] {x}\n"),
        (' the " odd one out is left as it is . \n', ' the " odd one out is left as it is.\n'),
        (" Don 't stop , he said . \n", " Don 't stop, he said.\n"),
    ],
    "ptb": [
        ("no it was n't black monday", "no it wasn't black monday"),
        ("the company 's shares fell N N to $ N", "the company's shares fell 1 1 to $ N"),
        ("N of N <unk> said so", "N of 1 ? said so"),
        ("the traders ' view is 50\\/50 on # N", "the traders' view is 50/50 on # N"),
    ],
    "lm1b": [
        ('He said : " It \'s over , " and left .', 'He said: "It\'s over," and left.'),
        ("It cost $ 5 / £ 4 , [ sic ] .", "It cost $5/£4, [sic] ."),
        ("See http : / / x.org / a .", "See http://x.org/a."),
        ("They 're the Joneses ' cars ; wow !", "They're the Joneses ' cars; wow!"),
        ("The U.S. economy grew . It did .", "The U.S. economy grew. It did."),
    ],
    "lambada": [
        ("“Yes,” she said, ‘no’  ", '\n"Yes," she said, ‘no’'),
        ("\n\nA line", "\nA line"),
    ],
    "scientific_papers": [
        (
            'we find @xmath0 ( see fig . [ fig1 ] ) , i.e. , a " fit " .\nnext , line .',
            'we find @xmath0 (see fig. [fig1]), i.e., a "fit" .\nnext, line.',
        ),
    ],
}
# The order of rules, and where each ends.
BY_HAND = {
    "wikitext": [
        ("/' 7/", "/'[0-9]/"),
        ("= = = = = =", "======"),  # what is left of the first four is one of three again
        (" a \n b \n", " a\nb\n"),
        ("( a\n( b ) c )", "(a\n( b) c )"),
        ("{ } [ ] ( )", "{} [] ()"),
        ("rock ' n ' roll 's", "rock 'n' roll's"),
        (" N N N ", " 1 N 1 "),
        (" a , , b", " a, , b"),
    ],
    "ptb": [
        (" N" * 12 + " ", " 1" * 12 + " "),
        ("pay $ N now or $ N", "pay $1 now or $ N"),
        ("a \n b", "a\nb"),
    ],
    "lm1b": [
        ("ends well .\n", "ends well.\n"),
        ("ends well .\n\n", "ends well .\n\n"),
        ("https : / / x / y ?", "https://x/y?"),
        ("a ! b !", "a! b!"),
        ("( a ( b ) c )", "( a (b) c )"),
        ("5 % . So", "5 % . So"),
        ("' a ' ' b ' c", "'a' 'b' c"),
    ],
    "lambada": [("\t x \n", "\nx"), ("", "\n")],
}


@pytest.mark.parametrize("name", DETOKENIZERS)
def test_what_the_published_functions_printed(name):
    for text, expected in GOLDEN[name]:
        assert detokenized(text, name) == expected


@pytest.mark.parametrize("name", BY_HAND)
def test_what_the_rules_say_by_hand(name):
    for text, expected in BY_HAND[name]:
        assert detokenized(text, name) == expected
