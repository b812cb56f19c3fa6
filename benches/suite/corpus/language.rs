//! Invented languages: vocabularies whose words are as long, as often and as unevenly used as those of news text.
//!
//! Nothing in them means anything. Scripts of several widths in UTF-8 are among them, and capital letters where the script has them.

use fastrand::Rng;

/// Words of a vocabulary. Fewer, and articles would compress better than news does.
const WORDS: usize = 30_000;
/// How fast words get rarer by rank, as in Zipf's law; the shift keeps the very first from being all of the text.
const EXPONENT: f64 = 1.05;
const SHIFT: f64 = 2.7;

/// A script to make words of, and how its sentences are put together.
struct Script {
    tag: &'static str,
    consonants: &'static str,
    vowels: &'static str,
    /// Syllables of a word.
    syllables: std::ops::Range<usize>,
    between_words: &'static str,
    full_stop: &'static str,
    /// Share of the articles, in percent.
    share: u32,
}

const SCRIPTS: [Script; 6] = [
    Script {
        tag: "en",
        consonants: "b c d f g h k l m n p r s t v w st th tr sh ch br nd",
        vowels: "a e i o u ea ou ai io",
        syllables: 1..5,
        between_words: " ",
        full_stop: ". ",
        share: 55,
    },
    Script {
        tag: "de",
        consonants: "b d f g h k l m n r s t w z sch ch st pf tz",
        vowels: "a e i o u ä ö ü ei ie au",
        syllables: 1..6,
        between_words: " ",
        full_stop: ". ",
        share: 15,
    },
    Script {
        tag: "ru",
        consonants: "б в г д ж з к л м н п р с т ст пр х ч ш",
        vowels: "а е и о у ы я ю",
        syllables: 1..6,
        between_words: " ",
        full_stop: ". ",
        share: 12,
    },
    Script {
        tag: "ar",
        consonants: "ب ت ج د ر س ش ع ف ق ك ل م ن ه و ي ال",
        vowels: "ا و ي ة",
        syllables: 1..4,
        between_words: " ",
        full_stop: ". ",
        share: 8,
    },
    Script {
        tag: "hi",
        consonants: "क ख ग च ज ट ड त द न प ब म य र ल व स ह",
        vowels: "ा ि ी ु े ो ं",
        syllables: 1..4,
        between_words: " ",
        full_stop: "। ",
        share: 5,
    },
    Script {
        tag: "ja",
        consonants: "日 本 大 国 会 年 中 人 東 出 前 田 政 府 経 済 新 聞 社 長",
        vowels: "の に は を た が で と し い る",
        syllables: 1..3,
        between_words: "",
        full_stop: "。",
        share: 5,
    },
];

/// A vocabulary with the frequency of its words.
pub struct Language {
    tag: &'static str,
    share: u32,
    between_words: &'static str,
    full_stop: &'static str,
    words: Vec<Word>,
    /// Picks a rank by one random number: a rank, or with the rest of the probability another one.
    ranks: Vec<(f32, u32)>,
}

struct Word {
    lower: Box<str>,
    capital: Box<str>,
}

impl Language {
    /// All languages; the same ones for the same seed.
    pub fn all(seed: u64) -> Vec<Self> {
        SCRIPTS.iter().enumerate().map(|(number, script)| Self::new(script, seed.wrapping_add(number as u64))).collect()
    }

    fn new(script: &Script, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let consonants: Vec<_> = script.consonants.split(' ').collect();
        let vowels: Vec<_> = script.vowels.split(' ').collect();
        let words = (0..WORDS).map(|rank| {
            // The words used most are the shortest.
            let longest = if rank < 100 { script.syllables.start + 1 } else { script.syllables.end };
            let mut lower = String::new();
            for _ in 0..rng.usize(script.syllables.start..longest) {
                lower.push_str(consonants[rng.usize(..consonants.len())]);
                lower.push_str(vowels[rng.usize(..vowels.len())]);
            }
            if rng.u8(..) < 90 {
                lower.push_str(consonants[rng.usize(..consonants.len())]);
            }
            let mut letters = lower.chars();
            let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
            Word { lower: lower.into(), capital: capital.into() }
        });
        Self {
            tag: script.tag,
            share: script.share,
            between_words: script.between_words,
            full_stop: script.full_stop,
            words: words.collect(),
            ranks: alias_table(&(0..WORDS).map(|rank| (rank as f64 + SHIFT).powf(-EXPONENT)).collect::<Vec<_>>()),
        }
    }

    /// The language's BCP 47 tag.
    pub fn tag(&self) -> &'static str {
        self.tag
    }

    /// Its share of the articles, in percent.
    pub fn share(&self) -> u32 {
        self.share
    }

    /// A word by its frequency.
    pub fn word(&self, rng: &mut Rng) -> usize {
        let slot = rng.usize(..self.ranks.len());
        let (own, other) = self.ranks[slot];
        if rng.f32() < own { slot } else { other as usize }
    }

    /// A word of those that are not in every article, each as likely as any other.
    pub fn rare_word(&self, rng: &mut Rng) -> usize {
        rng.usize(200..self.words.len())
    }

    /// Appends a sentence of so many words. Some of them are what the article is about, and come again.
    pub fn sentence(&self, text: &mut String, length: usize, topic: &[usize], rng: &mut Rng) {
        for place in 0..length {
            let about = !topic.is_empty() && rng.u8(..) < 52;
            let word = if about { topic[rng.usize(..topic.len())] } else { self.word(rng) };
            let word = &self.words[word];
            if place > 0 {
                text.push_str(if rng.u8(..) < 16 && !self.between_words.is_empty() { ", " } else { self.between_words });
            }
            text.push_str(if place == 0 { &word.capital } else { &word.lower });
        }
        text.push_str(self.full_stop);
    }

    /// Appends words as a part of a URL: lower case, joined by hyphens.
    pub fn slug(&self, url: &mut String, words: usize, rng: &mut Rng) {
        for place in 0..words {
            let word = &self.words[self.word(rng)].lower;
            if place > 0 {
                url.push('-');
            }
            url.push_str(word);
        }
    }
}

/// Walker's alias method: as many slots as weights, each with what it keeps for itself and who gets the rest.
pub fn alias_table(weights: &[f64]) -> Vec<(f32, u32)> {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
    let mut table: Vec<(f32, u32)> = (0..weights.len()).map(|slot| (1.0, slot as u32)).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..shares.len()).partition(|&slot| shares[slot] < 1.0);
    while let (Some(slot), Some(&giver)) = (small.pop(), large.last()) {
        table[slot] = (shares[slot] as f32, giver as u32);
        shares[giver] -= 1.0 - shares[slot];
        if shares[giver] < 1.0 {
            large.pop();
            small.push(giver);
        }
    }
    table
}
