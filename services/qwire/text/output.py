"""The text of one output: detokenised, split into thinking, answer and calls, and cut at the first stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qwire.text.call_progress import CallFragment
from qwire.text.call_text import WrittenCall
from qwire.text.detokenizer import Detokenizer
from qwire.text.splitter import Channel, OutputSplitter, Part, Splitter
from qwire.text.stop import StopMatcher


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """What some more tokens gave: text of one channel and fragments of a call, or a call.

    Attributes:
        text: The text; it may lag behind the tokens.
        tokens: How many of them belong to the output: all, or those up to the one that completed the stop string.
        stop_string: The stop string that appeared.
        channel: What the text is.
        call: A complete tool call, without text and tokens: it comes right before the token that completes it.
        fragments: More of a call that is not complete. The first one of a call comes with the first token of a piece.
    """

    text: str
    tokens: int
    stop_string: str | None = None
    channel: Channel = Channel.TEXT
    call: WrittenCall | None = None
    fragments: tuple[CallFragment, ...] = ()

    @property
    def begins_call(self) -> bool:
        """Whether the first fragment of a call is in it."""
        return any(fragment.name for fragment in self.fragments)


class OutputText:
    """Turns output tokens into output text.

    What has come out after n tokens depends on these tokens only, not on how they were grouped: an output is resumed
    by pushing the tokens that exist and leaving out the text that they give.

    Stop strings are looked for in the answer, not in thinking or calls, and not across them. Line breaks between the
    answer and a call that follows it belong to the call's tag.

    Args:
        detokenizer: A new one.
        matcher: A new one.
        min_output_tokens: A stop string counts where the token that completes it is this one or a later one.
        splitter: A new one; None = all of the output is the answer.
        budget_tokens: The most tokens of thinking; None = no bound.

    Attributes:
        reasoning_tokens: Tokens of thinking so far, its tags included.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        matcher: StopMatcher,
        min_output_tokens: int = 0,
        *,
        splitter: Splitter | None = None,
        budget_tokens: int | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._matcher = matcher
        self._min_output_tokens = min_output_tokens
        self._splitter: Splitter = splitter or OutputSplitter()
        self._budget_tokens = budget_tokens
        self._tokens = 0
        self._line_breaks = ""
        self.reasoning_tokens = 0

    @property
    def budget_spent(self) -> bool:
        """Whether the model thinks and may think no more: nothing is taken until the budget is lifted."""
        budget = self._budget_tokens
        return budget is not None and self._splitter.thinking and self.reasoning_tokens >= budget

    def lift_budget(self) -> None:
        """Let thinking go on without a bound, for the tokens that end it."""
        self._budget_tokens = None

    def push(self, token_ids: Sequence[int]) -> list[OutputPiece]:
        """Take the next tokens, up to where the budget is spent. Once a stop string appeared, nothing may follow.

        Returns:
            What they gave; their token counts add up to the tokens taken.
        """
        if self._splitter.plain:
            return self._take_plain(token_ids)
        pieces: list[OutputPiece] = []
        for token_id in token_ids:
            if self.budget_spent:
                break
            pieces += self._take(token_id)
            if pieces[-1].stop_string is not None:
                break
        return joined(pieces)

    def finish(self) -> OutputPiece:
        """Return the rest of the text: no token follows. An incomplete character in it completes no stop string."""
        text = ""
        channel = Channel.TEXT
        fragments: list[CallFragment] = []
        for part in (*self._splitter.push(self._detokenizer.finish()), *self._splitter.finish()):
            if isinstance(part, WrittenCall):
                continue  # a call ends with its tag, and an incomplete character is none
            if isinstance(part, CallFragment):
                fragments.append(part)
                continue
            channel = part.channel
            text += part.text if channel is Channel.REASONING else self._matcher.push(part.text, honour=False)[0]
        rest = self._matcher.finish()
        return OutputPiece(self._line_breaks + text + rest, 0, channel=channel, fragments=tuple(fragments))

    def _take_plain(self, token_ids: Sequence[int]) -> list[OutputPiece]:
        """Take tokens that are all of the answer: what most outputs are, and faster than the way round the splitter."""
        texts: list[str] = []
        for token_id in token_ids:
            self._tokens += 1
            honour = self._tokens >= self._min_output_tokens
            text, stop_string = self._matcher.push(self._detokenizer.push(token_id), honour=honour)
            texts.append(text)
            if stop_string is not None:
                return [OutputPiece("".join(texts), len(texts), stop_string)]
        return [OutputPiece("".join(texts), len(texts))] if texts else []

    def _take(self, token_id: int) -> list[OutputPiece]:
        """Return what one token gives; the token is counted with the last piece, which is never a call."""
        self._tokens += 1
        thought = self._splitter.thinking
        parts = self._splitter.push(self._detokenizer.push(token_id), token_id)
        thought = thought or self._splitter.thinking
        self.reasoning_tokens += thought
        pieces, stop_string = self._pieces(parts)
        if stop_string is None and self._splitter.in_call:
            # No stop string goes on beyond a tag, so that no text is left to come after the call.
            pieces.append(self._answer(self._matcher.flush()))
        pieces = joined(piece for piece in pieces if piece.text or piece.call or piece.fragments)
        last = pieces.pop() if pieces and not pieces[-1].call else None
        channel = last.channel if last else Channel.REASONING if thought else Channel.TEXT
        text, fragments = (last.text, last.fragments) if last else ("", ())
        return [*pieces, OutputPiece(text, 1, stop_string, channel, fragments=fragments)]

    def _pieces(self, parts: Iterable[Part]) -> tuple[list[OutputPiece], str | None]:
        """Return what parts give, up to the stop string, and the stop string."""
        honour = self._tokens >= self._min_output_tokens
        pieces: list[OutputPiece] = []
        for part in parts:
            if isinstance(part, WrittenCall):
                self._line_breaks = ""
                pieces.append(OutputPiece("", 0, call=part))
            elif isinstance(part, CallFragment):
                pieces.append(OutputPiece("", 0, fragments=(part,)))
            elif part.channel is Channel.REASONING:
                pieces.append(OutputPiece(part.text, 0, channel=Channel.REASONING))
            else:
                text, stop_string = self._matcher.push(part.text, honour=honour)
                pieces.append(self._answer(text, ended=stop_string is not None))
                if stop_string is not None:
                    return pieces, stop_string
        return pieces, None

    def _answer(self, text: str, *, ended: bool = False) -> OutputPiece:
        """Return a piece of the answer; line breaks at its end wait for what follows where a call may."""
        text = self._line_breaks + text
        certain = text if ended or not self._splitter.may_call else text.rstrip("\n")
        self._line_breaks = text[len(certain) :]
        return OutputPiece(certain, 0)


def joined(pieces: Iterable[OutputPiece]) -> list[OutputPiece]:
    """Return the same pieces, as few as their channels and calls allow.

    Text and fragments that belong to a token of a later piece stay apart from tokens before it: who resumes after these
    is given them again. What an id of a call is made of are the tokens before it: so a piece begins with the token
    that begins a call.
    """
    result: list[OutputPiece] = []
    for piece in pieces:
        last = result[-1] if result else None
        ahead = last is not None and last.tokens > 0 and piece.tokens == 0 and bool(piece.text or piece.fragments)
        other = last is not None and piece.text != "" and last.text != "" and piece.channel != last.channel
        begins = last is not None and piece.begins_call and last.tokens > 0
        if last is None or last.call or piece.call or ahead or other or begins:
            result.append(piece)
        else:
            channel = piece.channel if piece.text or not last.text else last.channel
            text, tokens = last.text + piece.text, last.tokens + piece.tokens
            fragments = last.fragments + piece.fragments
            result[-1] = OutputPiece(text, tokens, piece.stop_string, channel, fragments=fragments)
    return result


def closed(pieces: list[OutputPiece], rest: OutputPiece, tokens: int) -> list[OutputPiece]:
    """Return the pieces with the rest of the text and the tokens that gave none.

    The rest belongs to the last token, and comes with it: who resumed after that would not be given it again.
    """
    if not pieces or pieces[-1].call:
        return [*pieces, replace(rest, tokens=tokens)]
    *before, last = pieces
    if rest.text and last.text and rest.channel != last.channel:
        moved = 0 if tokens else min(1, last.tokens)
        return [*before, replace(last, tokens=last.tokens - moved), replace(rest, tokens=tokens + moved)]
    channel = rest.channel if rest.text else last.channel
    text, fragments = last.text + rest.text, last.fragments + rest.fragments
    return [*before, replace(last, text=text, tokens=last.tokens + tokens, channel=channel, fragments=fragments)]
