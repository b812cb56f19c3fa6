//! The fields of an article by name, for read and update masks.

use std::str::FromStr;

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $access:ident;)*) => {
        /// A field of an article. The names are those of the proto and of every file format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $($(#[$doc])* $variant),* }

        impl Field {
            /// Every field.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The field's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What a client may do with the field.
            pub fn access(self) -> FieldAccess {
                match self { $(Self::$variant => FieldAccess::$access),* }
            }
        }
    };
}

/// Who sets a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldAccess {
    /// Part of the article's identity: set once, never updated.
    Identity,
    /// Set and updated by clients.
    Client,
    /// Set by the store alone.
    Store,
}

fields! {
    /// The URL as given.
    Url = "url", Identity;
    /// The publication date.
    Date = "date", Identity;
    /// The title.
    Title = "title", Client;
    /// The lead.
    Lead = "lead", Client;
    /// The body.
    Body = "body", Client;
    /// When the source published the article.
    PublishTime = "publish_time", Client;
    /// When the source last changed it.
    ModifyTime = "modify_time", Client;
    /// When it was fetched.
    CrawlTime = "crawl_time", Client;
    /// The authors.
    Authors = "authors", Client;
    /// The keywords.
    Keywords = "keywords", Client;
    /// The section.
    Section = "section", Client;
    /// The language.
    Language = "language", Client;
    /// The publisher.
    Publisher = "publisher", Client;
    /// The annotations.
    Annotations = "annotations", Client;
    /// The canonical URL.
    CanonicalUrl = "canonical_url", Store;
    /// The canonical host.
    Host = "host", Store;
    /// The digest.
    Digest = "digest", Store;
    /// The etag.
    Etag = "etag", Store;
    /// The revision.
    Revision = "revision", Store;
    /// When the article was first stored.
    CreateTime = "create_time", Store;
    /// When the revision was stored.
    UpdateTime = "update_time", Store;
}

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(name: &str) -> Result<Self, UnknownField> {
        Self::ALL.iter().copied().find(|field| field.name() == name).ok_or(UnknownField)
    }
}

/// No field of an article has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no field of an article")]
pub struct UnknownField;

/// A set of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSet(u32);

impl FieldSet {
    /// Every field.
    pub const ALL: Self = Self(u32::MAX);
    /// No field.
    pub const NONE: Self = Self(0);

    /// Whether the field is in the set.
    pub fn contains(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }

    /// Adds a field.
    pub fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u8;
    }

    /// Whether the head of an article, which is read without touching its text, holds every field of the set but the URL as given.
    pub fn needs_only_head(self) -> bool {
        Field::ALL.iter().all(|&field| !self.contains(field) || field == Field::Date || field.access() == FieldAccess::Store)
    }
}

impl FromIterator<Field> for FieldSet {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        let mut set = Self::NONE;
        fields.into_iter().for_each(|field| set.insert(field));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name() {
        for &field in Field::ALL {
            assert_eq!(field.name().parse(), Ok(field));
        }
        assert!(Field::ALL.len() <= 32);
        assert!("Title".parse::<Field>().is_err());
    }

    #[test]
    fn heads_hold_what_the_store_sets() {
        assert!([Field::Date, Field::Etag, Field::CanonicalUrl].into_iter().collect::<FieldSet>().needs_only_head());
        for field in [Field::Url, Field::Body, Field::Language] {
            assert!(!FieldSet::from_iter([field, Field::Etag]).needs_only_head());
        }
    }
}
